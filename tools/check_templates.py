"""Compare chat templates with Jinja2: made-up templates, rendered here and by Transformers.

    cargo build --release --example render_templates
    python tools/check_templates.py [--seed N] [--count N] [--every]

Two thirds are expressions (operators, filters, methods, tests and slices of values of every type), one
third are blocks with white space control, loops, macros and scopes. `--every` takes every filter,
method, test and operator on every value instead. Exits with 1 where the texts differ, or where a text
comes where Jinja2 raises. Where only this side refuses, it says how often: that is allowed.
"""

import argparse
import copy
import datetime
import json
import random
import signal
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")

import transformers.utils.chat_template_utils as chat_template_utils

PROGRAM = Path(__file__).resolve().parent.parent / "target/release/examples/render_templates"


class _Now(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime.datetime:
        return datetime.datetime(2024, 7, 5, 13, 4, 9)


CONTEXT = {
 "a": 7, "b": -3, "f": 2.5, "g": 1e16, "h": 1e-5, "z": 0, "t": True, "n": None, "s": "Hello, World", "e": "",
 "u": "héllo ✓ 😀\tx\n'q'", "w": "  padded \n", "d": "12", "l": [3, 1, 2], "m": ["b", "A", "c", "a"], "k": [],
 "o": {"b": 1, "a": [1, 2.0, None], "items": "own", "x": {"y": "deep"}}, "q": {}, "big": 12345678901234567890,
 "r": [{"name": "Zoe", "age": 3, "tags": ["x"]}, {"name": "adam", "age": 1}, {"name": "Bob", "age": 3, "ok": True}],
 "mix": [1, "1", 1.0, True, None, [1], {"a": 1}], "html": "<a href='x'>&\"", "num": "3.7abc", "csv": "a,b,,c", "lines": "one\ntwo\r\n\nthree\n",
}
ATOMS = ["a","b","f","g","h","z","t","n","s","e","u","w","d","l","m","k","o","q","r","mix","missing","csv","lines","num","html","big",
 "1","0","-1","2","3.5","'x'","''","'l'","\"it's\"","[]","[1,2,3]","(1,2)","()","(1,)","{}","{'a':1}","true","false","none","r[0]","r[1].name","o.x","o.a","1e3","10","100","'ab'*2","range(3)","o.items()","o.keys()","m|map('upper')","missing.x","o.nope"]
OPERATORS = ["+","-","*","/","//","%","~","==","!=","<","<=",">",">="," in "," not in "," and "," or ","**","+","~"]
FILTERS = ["abs","capitalize","count","d","default('D')","default('D', true)","dictsort","dictsort(false,'value')","dictsort(reverse=true)","first","last","float","float(9)","int","int(5)","int(0,16)","int(base=2)","items|list","join","join(', ')","join('-', 'name')","length","list","lower","upper","title","trim","trim('x ')","reverse|list","reverse","round","round(1)","round(2,'ceil')","round(0,'floor')","string","sum","sum('age')","sum(start=10)","sort","sort(true)","sort(attribute='age')","sort(attribute='age,name')","sort(case_sensitive=true)","unique|list","min","max","min('age')","max(attribute='name')","tojson","tojson(indent=2)","tojson(ensure_ascii=true)","tojson(sort_keys=true)","tojson(separators=(',',':'))","indent","indent(2,true)","indent('> ')","indent(4,false,true)","wordcount","urlencode","center(12)","center","replace('l','L')","replace('l','L',1)","replace('','-')","truncate(5)","truncate(8,true)","truncate(6,false,'..',0)","filesizeformat","filesizeformat(true)","batch(2)|list","batch(2,'-')|list","slice(2)|list","slice(3,'-')|list","groupby('age')|list","groupby('age')|map('list')|list","groupby('age')|map(attribute='grouper')|list","map('upper')|list","map(attribute='name')|list","map(attribute='nope',default='?')|join","map(attribute='x.y')|list","map('int')|list","map('default','z')|list","select|list","select('odd')|list","reject('none')|list","selectattr('ok')|list","selectattr('age','equalto',3)|list","rejectattr('ok','defined')|list","selectattr('age','>',1)|map(attribute='name')|join(',')","format(1,2)","e","escape","safe","attr('upper')","attr('x')","string|length"]
METHODS = ["upper()","lower()","title()","capitalize()","swapcase()","strip()","lstrip()","rstrip()","strip('Hd')","lstrip(' p')","split()","split(',')","split(',',1)","split(None,1)","split('l',-1)","rsplit(',',1)","rsplit(None,1)","rsplit()","splitlines()","splitlines(true)","partition(',')","rpartition('l')","startswith('He')","startswith(('x','H'))","endswith('d')","endswith('',3)","find('l')","find('z')","rfind('l')","index('l')","rindex('l')","count('l')","count('')","find('l',3)","find('l',-3,-1)","replace('l','L')","replace('l','L',1)","join(['a','b'])","join(m)","join(l)","zfill(15)","zfill(3)","ljust(15)","ljust(15,'*')","rjust(15,'-')","center(15)","center(16,'*')","isalpha()","isdigit()","isalnum()","isspace()","islower()","isupper()","istitle()","isnumeric()","isdecimal()","isascii()","isidentifier()","isprintable()","casefold()","expandtabs()","expandtabs(3)","removeprefix('He')","removesuffix('ld')","format(1,2)","get('a')","get('zz')","get('zz','D')","items()","keys()","values()","items()|list","keys()|list","values()|list","index(1)","count(1)","copy()","append(1)","pop()","update({})","encode()","format_map({'a':1})"]
TESTS = ["defined","undefined","none","string","number","integer","float","boolean","mapping","sequence","iterable","callable","true","false","odd","even","lower","upper","escaped","divisibleby 3","divisibleby(2)","eq 1","equalto('x')","ne 3","gt 1","lt(2)","in [1,2]","in 'xyz'","sameas none","sameas true","filter","test","ge 2","!=3","not none","not defined","not string"]
ITEMS = ["[0]","[-1]","[1:]","[:-1]","[::-1]","[1:3]","['a']","['items']",".a",".x.y",".items","['zz']",".zz","[9]","[::2]","[-2:]","[5:1:-1]","[:2][0]",".0","[true]","[none:2]","['name']",".name","[1.0]"]
LAYOUTS = ["'%s' % X","'%d' % X","'%5.2f' % X","'%-6s|' % X","'%05d' % X","'%x' % X","'%+d' % X","'%r' % X","'%e' % X","'%g' % X","'%s %s' % (X,Y)","'%%' % ()","'%(a)s' % {'a':X}","'{}'.format(X)","'{:>8}'.format(X)","'{:.2f}'.format(X)","'{0}-{1}-{0}'.format(X,Y)","'{:,}'.format(X)","'{:08.3f}'.format(X)","'{:^9}|'.format(X)","'{a[0]}'.format(a=X)","'{!r}'.format(X)","'{:d}'.format(X)","'{:x}'.format(X)","'{:e}'.format(X)","'{:g}'.format(X)","'{:.1%}'.format(X)","'{:*<7}'.format(X)","'{:{}}'.format(X,8)","'%.3s' % X","'%*d' % (6,X)","'%#x' % X","'%.0f' % X","'%10s' % X","'%c' % X","'{:+d}'.format(X)","'{:_}'.format(X)","'{:#b}'.format(X)"]


class Maker:
    """Makes up templates."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pick(self, *choices: str) -> str:
        """One of the texts."""
        return self.random.choice(choices)

    def expression(self, depth: int = 3) -> str:
        """An expression, `depth` operations deep at most."""
        kind = self.random.random()
        inner = lambda less=1: self.expression(depth - less)  # noqa: E731
        if depth <= 0 or kind < 0.15:
            return self.pick(*ATOMS)
        if kind < 0.35:
            operator = self.pick(*OPERATORS)
            # Powers of powers would take Python minutes.
            right = self.pick("2", "0", "-1", "f", "3", "0.5", "s") if operator == "**" else inner()
            return f"({inner()}{operator}{right})"
        if kind < 0.55:
            return f"({inner()})|{self.pick(*FILTERS)}"
        if kind < 0.70:
            return f"({inner()}).{self.pick(*METHODS)}"
        if kind < 0.78:
            return f"(({inner()}) is {self.pick(*TESTS)})"
        if kind < 0.86:
            return f"({inner()}){self.pick(*ITEMS)}"
        if kind < 0.91:
            layout = self.pick(*LAYOUTS)
            return layout.replace("X", f"({inner(2)})").replace("Y", self.pick(*ATOMS))
        if kind < 0.94:
            return f"({inner()} if {inner()} else {inner()})"
        if kind < 0.95:
            return f"({inner()} if {inner(2)})"
        if kind < 0.97:
            return f"(not {inner()})"
        if kind < 0.98:
            return f"(-{inner()})"
        return f"[{inner(2)}, {inner(2)}]"

    def tag(self, inside: str) -> str:
        """A block tag with one of the white space controls."""
        return f"{{%{self.pick('', '', '', '-', '+')} {inside} {self.pick('', '', '', '-')}%}}"

    def space(self) -> str:
        """White space, or a little text."""
        return self.pick("", "\n", " ", "  ", "\n  ", "\n\n", "x", "  \n", "\t", "x ", "\r\n")

    def loop(self, depth: int) -> str:
        """A for loop that looks at its `loop`."""
        target = self.pick("x", "y", "k2, v2")
        over = self.pick("l", "m", "r", "o.items()", "k", "range(3)", "'abc'", "o|dictsort", "missing", "m|map('upper')", "r|groupby('age')")
        condition = self.pick("", "", "if a")
        other = "{% else %}none" if self.random.random() < 0.3 else ""
        body = self.pick(*LOOP_BODIES) + self.blocks(depth - 1) + other
        return self.tag(f"for {target} in {over} {condition}") + body + self.tag("endfor")

    def branch(self, depth: int) -> str:
        """An if with the branches it may have."""
        made = self.tag(f"if {self.expression(1)}") + self.blocks(depth - 1)
        if self.random.random() < 0.3:
            made += self.tag(f"elif {self.expression(1)}") + self.blocks(depth - 1)
        if self.random.random() < 0.5:
            made += self.tag("else") + self.blocks(depth - 1)
        return made + self.tag("endif")

    def block(self, depth: int) -> str:
        """A statement."""
        kind = self.random.random()
        if kind < 0.2:
            return "{{" + self.pick("", "-") + f" {self.expression(1)} " + self.pick("", "-") + "}}"
        if kind < 0.3:
            return "{#" + self.pick("", "-") + " note " + self.pick("", "-") + "#}"
        if depth <= 0:
            return "text"
        if kind < 0.5:
            return self.branch(depth)
        if kind < 0.7:
            return self.loop(depth)
        inner = self.blocks(depth - 1)
        if kind < 0.78:
            return self.tag(f"set {self.pick('x', 'y', 's', 'loop2')} = {self.expression(1)}")
        if kind < 0.82:
            return self.tag("set y " + self.pick("", "| upper", "| trim | length")) + inner + "{% endset %}{{ y }}"
        if kind < 0.87:
            body = self.pick(*MACRO_BODIES) + self.blocks(depth - 2)
            return "{% macro mm(p, q2='dq', r2=p) %}" + body + "{% endmacro %}" + self.pick(*MACRO_CALLS)
        if kind < 0.90:
            return "{% with x = " + self.expression(1) + " %}{{ x }}" + inner + "{% endwith %}{{ x }}"
        if kind < 0.93:
            return self.tag("generation") + inner + self.tag("endgeneration")
        if kind < 0.96:
            filters = self.pick("upper", "indent(2)", "trim", "replace('x','y')|upper")
            return "{% filter " + filters + " %}" + inner + "{% endfilter %}"
        if kind < 0.98:
            return self.tag("raw") + self.pick(" {{ x }} ", "\n{% if %}\n") + self.tag("endraw")
        return "{% for x in r recursive %}{{ x.name }}{% if x.tags %}{{ loop(r[1:]) }}{{ loop.depth }}{% endif %}{% endfor %}"

    def blocks(self, depth: int = 3) -> str:
        """A few statements."""
        count = self.random.randint(1, 4)
        return "".join(self.space() + self.block(depth) + self.space() for _ in range(count))


LOOP_BODIES = [
    "", "", "{{ x }}", "{{ loop.index }}/{{ loop.length }}", "{{ loop.last }}{{ loop.nextitem }}",
    "{{ loop.cycle('p','q') }}", "{{ loop.changed(x) }}", "{% if loop.first %}{% continue %}{% endif %}",
    "{% if loop.index == 2 %}{% break %}{% endif %}", "{% set y = x %}", "{{ y }}",
    "{% set ns.c = ns.c + 1 %}", "{{ loop.revindex }}{{ loop.previtem is defined }}",
]  # fmt: skip
MACRO_BODIES = ["[{{ p }}|{{ q2 }}|{{ r2 }}]", "{{ varargs }}{{ kwargs }}", "{{ caller() if caller else 'nc' }}", "{{ x }}{{ y }}"]
MACRO_CALLS = ["{{ mm(1) }}", "{{ mm(1, 2) }}", "{{ mm(q2=3) }}", "{{ mm() }}", "{{ mm(1,2,3,4) }}", "{{ mm(1, zz=5) }}", "{% call mm(2) %}in{{ x }}{% endcall %}", "{{ mm }}", "{{ mm.name }}"]


def every() -> list[str]:
    """Every operation on every value."""
    made = []
    for atom in ATOMS:
        made += [f"{{{{ ({atom})|{one} }}}}" for one in FILTERS]
        made += [f"{{{{ ({atom}).{one} }}}}" for one in METHODS]
        made += [f"{{{{ ({atom}) is {one} }}}}" for one in TESTS]
        made += [f"{{{{ ({atom}){one} }}}}" for one in ITEMS]
        made += ["{{ " + one.replace("X", f"({atom})").replace("Y", "s") + " }}" for one in LAYOUTS]
        for other in ATOMS[::2]:
            made += [f"{{{{ ({atom}){one}({other}) }}}}" for one in OPERATORS if one != "**"]
    return made


def ours(templates: list[str]) -> list[dict[str, str]]:
    """What this project makes of them."""
    cases = [json.dumps({"template": source, "context": CONTEXT}) for source in templates]
    done = subprocess.run([PROGRAM], input="\n".join(cases), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _too_slow(*_: Any) -> None:
    raise TimeoutError("slow")


def reference(source: str) -> dict[str, str]:
    """What Transformers makes of one."""
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        template = chat_template_utils._cached_compile_jinja_template(source)
        return {"text": template.render(**copy.deepcopy(CONTEXT))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> None:
    """Compare, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--every", action="store_true")
    args = parser.parse_args()
    chat_template_utils.datetime = _Now
    signal.signal(signal.SIGALRM, _too_slow)
    maker = Maker(args.seed)
    templates = every() if args.every else []
    for number in range(0 if args.every else args.count):
        made = "{{ " + maker.expression() + " }}"
        if number % 3 == 0:
            made = "{% set ns = namespace(c=0) %}" + maker.blocks() + "{{ ns.c }}"
        templates.append(made)
    seen: Counter[str] = Counter()
    for source, found in zip(templates, ours(templates), strict=True):
        expected = reference(source)
        if "text" not in expected:
            kind = "both refuse" if "error" in found else "ONLY JINJA2 REFUSES"
        elif "error" in found:
            kind = "only this side refuses"
        elif found["text"] == expected["text"]:
            kind = "same"
        else:
            kind = "DIFFERENT"
        seen[kind] += 1
        if kind.isupper():
            print(f"{kind}\n  {source}\n  here   {found}\n  Jinja2 {expected}")
    print(json.dumps(seen))
    sys.exit(any(kind.isupper() for kind in seen))


if __name__ == "__main__":
    main()
