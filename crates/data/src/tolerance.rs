//! How many samples may be broken.

use crate::{Dataset, Error};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many samples may be broken before reading ends with an error. Written `5` or `1%`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum MaxBroken {
    /// A number of samples.
    Samples(usize),
    /// A share of all samples, in percent.
    Percent(f64),
}

impl Default for MaxBroken {
    /// One in a hundred.
    fn default() -> MaxBroken {
        MaxBroken::Percent(1.0)
    }
}

impl MaxBroken {
    /// The number of samples out of `all`.
    pub fn of(self, all: usize) -> usize {
        match self {
            MaxBroken::Samples(n) => n,
            MaxBroken::Percent(p) => (all as f64 * p / 100.0) as usize,
        }
    }
}

impl FromStr for MaxBroken {
    type Err = Error;

    fn from_str(s: &str) -> Result<MaxBroken, Error> {
        let bad = || Error::Preprocess {
            problem: format!(
                "'{s}' is no number of broken samples; write a number such as 5, or a share such as 1%"
            ),
        };
        match s.strip_suffix('%') {
            None => s.parse().map(MaxBroken::Samples).map_err(|_| bad()),
            Some(p) => match p.trim().parse::<f64>() {
                Ok(p) if (0.0..=100.0).contains(&p) => Ok(MaxBroken::Percent(p)),
                _ => Err(bad()),
            },
        }
    }
}

impl fmt::Display for MaxBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxBroken::Samples(n) => write!(f, "{n}"),
            MaxBroken::Percent(p) => write!(f, "{p}%"),
        }
    }
}

impl TryFrom<String> for MaxBroken {
    type Error = Error;

    fn try_from(text: String) -> Result<MaxBroken, Error> {
        text.parse()
    }
}

impl From<MaxBroken> for String {
    fn from(limit: MaxBroken) -> String {
        limit.to_string()
    }
}

/// The broken samples of a dataset, of which there may be so many.
#[derive(Debug, Default)]
pub(crate) struct Tolerance {
    pub limit: MaxBroken,
    found: Mutex<BTreeMap<usize, String>>,
}

impl Tolerance {
    pub fn new(limit: MaxBroken) -> Tolerance {
        Tolerance { limit, ..Tolerance::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn found(&self) -> Vec<(usize, String)> {
        self.lock().iter().map(|(sample, why)| (*sample, why.clone())).collect()
    }

    /// Counts broken samples, each once however often it is met.
    pub fn add(&self, broken: Vec<(usize, String)>, data: &Dataset) -> Result<(), Error> {
        if broken.is_empty() {
            return Ok(());
        }
        let mut found = self.lock();
        found.extend(broken);
        let limit = self.limit.of(data.len());
        match found.len() <= limit {
            true => Ok(()),
            false => Err(Error::TooManyBroken {
                place: data.place(0).clone(),
                found: found.len(),
                all: data.len(),
                limit,
                first: found.values().take(3).cloned().collect::<Vec<_>>().join("; "),
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_shares() {
        let of = |s: &str, all| s.parse::<MaxBroken>().map(|m| m.of(all)).map_err(|e| e.to_string());
        assert_eq!((of("5", 10), of("0", 10), of("1%", 250), of("2.5 %", 40)), (Ok(5), Ok(0), Ok(2), Ok(1)));
        for bad in ["", "-1", "many", "101%", "NaN%", "-1%", "%"] {
            assert!(of(bad, 10).unwrap_err().contains("write a number such as 5"), "{bad}");
        }
    }
}
