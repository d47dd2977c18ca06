//! Splits rows among cores; the only place that starts compute threads.
