//! Numbers for names, so that what is large is kept once.

use std::collections::HashMap;
use std::hash::Hash;

use super::Problem;

/// Names, each with a number, from 0 in the order of their first use.
#[derive(Debug)]
pub(super) struct Names<T> {
    numbers: HashMap<T, u32>,
    names: Vec<T>,
}

// === impl Names ===

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), names: Vec::new() }
    }
}

impl<T: Clone + Eq + Hash> Names<T> {
    /// The number of a name, which is a new one at its first use.
    pub(super) fn number(&mut self, name: &T) -> Result<u32, Problem> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let number = u32::try_from(self.names.len()).map_err(|_| Problem::TooMany)?;
        self.numbers.insert(name.clone(), number);
        self.names.push(name.clone());
        Ok(number)
    }

    /// The number of a name that was used before.
    pub(super) fn known(&self, name: &T) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The name of a number that was given out.
    pub(super) fn name(&self, number: u32) -> &T {
        &self.names[number as usize]
    }

    pub(super) const fn len(&self) -> usize {
        self.names.len()
    }
}
