//! The tree of a template.

use std::sync::Arc;

/// The number of a name in [`Template::names`](super::Template).
pub type Name = u32;

/// An expression and where it stands.
#[derive(Debug)]
pub struct Expr {
    pub line: u32,
    /// One more than the deepest expression within.
    pub depth: usize,
    pub kind: ExprKind,
}

/// A constant.
#[derive(Debug, Clone)]
pub enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
}

#[derive(Debug)]
pub enum ExprKind {
    Const(Const),
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Negate(Box<Expr>),
    Plus(Box<Expr>),
    Not(Box<Expr>),
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Compare(Box<Expr>, Vec<(CompareOp, Expr)>),
    /// Condition, value, value otherwise.
    Cond(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
    /// The input is absent in `{% filter name %}` and `{% set x | name %}`.
    Filter(Option<Box<Expr>>, Arc<str>, Args),
    Test(Box<Expr>, Arc<str>, Args),
    Attr(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    /// Start, stop, step.
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Args),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// The arguments of a call.
#[derive(Debug, Default)]
pub struct Args {
    pub positional: Vec<Expr>,
    pub keyword: Vec<(Arc<str>, Expr)>,
    /// `*args`.
    pub spread: Option<Box<Expr>>,
    /// `**kwargs`.
    pub spread_keyword: Option<Box<Expr>>,
}

/// What can be assigned to.
#[derive(Debug)]
pub enum Target {
    Name(Name),
    /// `ns.attribute`.
    Attr(Name, Arc<str>),
    Tuple(Vec<Target>),
}

/// `{% for %}`.
#[derive(Debug)]
pub struct For {
    pub target: Target,
    pub iter: Expr,
    pub filter: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
}

/// A parameter of a macro: its variable, and what it is called.
pub type Param = (Name, Arc<str>);

/// `{% macro %}`, and the body of `{% call %}`.
#[derive(Debug)]
pub struct MacroDef {
    /// Empty for the body of a call.
    pub name: String,
    pub params: Vec<Param>,
    /// Of the last parameters.
    pub defaults: Vec<Expr>,
    pub body: Vec<Stmt>,
    pub uses_caller: bool,
    pub uses_kwargs: bool,
    pub uses_varargs: bool,
}

/// A statement and where it stands.
#[derive(Debug)]
pub struct Stmt {
    pub line: u32,
    pub kind: StmtKind,
}

#[derive(Debug)]
pub enum StmtKind {
    Text(Arc<str>),
    Print(Expr),
    /// Condition and body of each branch; the `else` has no condition.
    If(Vec<(Option<Expr>, Vec<Stmt>)>),
    For(Arc<For>),
    Set(Target, Expr),
    /// The filter, if there is one, has no input: the body is it.
    SetBlock(Target, Option<Expr>, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    Macro(Name, Arc<MacroDef>),
    CallBlock(Expr, Arc<MacroDef>),
    FilterBlock(Expr, Vec<Stmt>),
    /// `{% generation %}`: what an assistant says.
    Generation(Vec<Stmt>),
    Break,
    Continue,
}
