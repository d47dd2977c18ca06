//! Every way the outside world can disappoint us, in words a user can act on.
//!
//! Each variant is one exit code; each message says what was expected, what was found and where
//! (file, tensor, key). Broken promises of our own are `assert!`s, never an `Error`.

use std::fmt;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone)]
pub enum Error {
    /// Something failed while running: a read, a terminal, a full context. Exit code 1.
    Runtime(String),
    /// The command line or a request does not make sense. Exit code 2.
    Usage(String),
    /// No plan fits the budgets; names the shortfall in bytes and the smallest change that fits. Exit code 3.
    Infeasible(String),
    /// A download failed: no network, not found, gated, disk full, wrong checksum. Exit code 4.
    Download(String),
    /// A file, config or vocabulary that is damaged or of a kind we do not run. Exit code 5.
    Model(String),
    /// Memory or a device is gone. Exit code 6.
    Memory(String),
    /// The user stopped us. Exit code 130.
    Interrupted,
}

impl Error {
    /// The exit code a process ends with when this error reaches `main`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Runtime(_) => 1,
            Error::Usage(_) => 2,
            Error::Infeasible(_) => 3,
            Error::Download(_) => 4,
            Error::Model(_) => 5,
            Error::Memory(_) => 6,
            Error::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Runtime(m)
            | Error::Usage(m)
            | Error::Infeasible(m)
            | Error::Download(m)
            | Error::Model(m)
            | Error::Memory(m) => f.write_str(m),
            Error::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    /// candle's errors reach us from mathematics on checked shapes, so they are a runtime failure.
    fn from(e: candle_core::Error) -> Self {
        Error::Runtime(format!("tensor operation failed: {e}"))
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::Runtime(format!("input/output failed: {e}"))
    }
}
