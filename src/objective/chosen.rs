//! The objectives that there are, and the one that a run has.

use super::{OBJECTIVES, Objective};
use crate::error::{Error, Result};
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, RwLock};

/// Makes an objective with its defaults.
pub(super) type Make = fn() -> Chosen;

/// See [`Make`].
pub(super) fn make<T: Objective + Default + 'static>() -> Chosen {
    T::default().into()
}

/// Those that users of the library have added.
static REGISTERED: RwLock<Vec<Make>> = RwLock::new(Vec::new());

/// Every objective, with its defaults.
pub fn all() -> Vec<Chosen> {
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    OBJECTIVES.iter().chain(registered.iter()).map(|make| make()).collect()
}

/// Adds an objective from outside the crate to those that configs may name, for the rest of the
/// process.
///
/// # Errors
/// [`Error::Input`] where there is one of that name.
pub fn register<T: Objective + Default + 'static>() -> Result<()> {
    let name = T::default().name();
    if all().iter().any(|known| known.name() == name) {
        return Err(Error::input(format!("there is an objective {name:?} already")));
    }
    REGISTERED.write().unwrap_or_else(PoisonError::into_inner).push(make::<T>);
    Ok(())
}

/// The objective of a run, with its settings.
#[derive(Debug)]
pub struct Chosen(Box<dyn Objective>);

impl<T: Objective + 'static> From<T> for Chosen {
    fn from(objective: T) -> Self {
        Self(Box::new(objective))
    }
}

impl Default for Chosen {
    fn default() -> Self {
        OBJECTIVES[0]()
    }
}

impl Deref for Chosen {
    type Target = dyn Objective;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl DerefMut for Chosen {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut *self.0
    }
}

impl Clone for Chosen {
    fn clone(&self) -> Self {
        self.0.boxed_copy()
    }
}

impl PartialEq for Chosen {
    fn eq(&self, other: &Self) -> bool {
        let same = |path: String| self.show(&path) == other.show(&path);
        self.name() == other.name() && self.keys().iter().all(|key| same(key.path()))
    }
}

/// `Clone`, of a type that is not known.
pub trait BoxedCopy {
    /// A copy.
    fn boxed_copy(&self) -> Chosen;
}

impl<T: Objective + Clone + 'static> BoxedCopy for T {
    fn boxed_copy(&self) -> Chosen {
        self.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::COMING;
    use super::*;

    #[test]
    fn a_name_means_one_objective() {
        let all = all();
        let names: Vec<&str> = all.iter().map(|objective| objective.name()).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name} is there twice");
            assert!(!COMING.contains(name), "{name} is there, and said to be coming");
        }
        assert_eq!(Chosen::default(), all[0].clone());
        let error = register::<super::super::sft::Sft>().unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
    }
}
