//! Weights pinned in memory, so that the system does not take their pages away; and how to be allowed to.

use crate::checkpoint::Weights;
use crate::config::placement::Placement;
use crate::config::size::shown;
use crate::experts::ExpertStore;

/// Pins weights and slots. The sentence to say where that was not permitted.
pub(super) fn pin(weights: &Weights, experts: &ExpertStore, placement: &Placement) -> Option<String> {
    let mapped = placement.slots.is_none();
    let bytes = weights.lockable_bytes(mapped) + experts.slots_bytes();
    let failed = weights.lock(mapped).and_then(|()| experts.lock()).err()?;
    Some(refused(bytes, limit(), &failed))
}

/// What this process may pin, in bytes, where there is a limit.
fn limit() -> Option<u64> {
    #[cfg(unix)]
    return rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    #[cfg(not(unix))]
    None
}

fn refused(bytes: u64, limit: Option<u64>, failed: &std::io::Error) -> String {
    let (needed, cost) = (shown(bytes), "the system may take pages of the model away when others need memory");
    match limit {
        Some(limit) if limit < bytes => format!(
            "--mlock: {needed} cannot be pinned, since this process may pin only {limit} bytes: {cost}; `ulimit -l {}` in the \
             shell before this command would permit it (as root, or with a limit raised in /etc/security/limits.conf)",
            bytes.div_ceil(1024)
        ),
        _ => format!("--mlock: {needed} cannot be pinned ({failed}): {cost}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_would_permit_it_is_exact() {
        let failed = std::io::Error::from_raw_os_error(12);
        let said = refused((8 << 30) + 1, Some(65536), &failed);
        assert!(said.contains("`ulimit -l 8388609`") && said.contains("only 65536 bytes"), "{said}");
        for limit in [None, Some(u64::MAX)] {
            let said = refused(8 << 30, limit, &failed);
            assert!(said.contains("8.00 GiB cannot be pinned (") && !said.contains("ulimit"), "{said}");
        }
    }
}
