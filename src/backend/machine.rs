//! The memory of this machine, as its system tells.

#[cfg(target_os = "linux")]
pub use linux::{anonymous, available};

/// Bytes that this process may use in all, what it holds already included; `None` where the system does not
/// tell.
#[cfg(target_os = "macos")]
pub fn available() -> Option<u64> {
    // The physical memory: macOS compresses and swaps what it must.
    let asked = std::process::Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).output();
    String::from_utf8(asked.ok()?.stdout).ok()?.trim().parse().ok()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub fn available() -> Option<u64> {
    None
}

/// Bytes of memory that this process holds and that are no file's, the pages that it touched; `None` where
/// the system does not tell.
#[cfg(not(target_os = "linux"))]
pub fn anonymous() -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    /// Bytes that this process may use in all, what it holds already included: what the kernel says can be
    /// had without swapping, within the limits of its control groups and its own.
    pub fn available() -> Option<u64> {
        available_by(&|path| std::fs::read_to_string(path).ok())
    }

    /// Bytes of memory that this process holds and that are no file's, the pages that it touched.
    pub fn anonymous() -> Option<u64> {
        entry(&std::fs::read_to_string("/proc/self/status").ok()?, "RssAnon:")
    }

    /// [`available`] by the files that `read` gives.
    pub(super) fn available_by(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
        let status = read("/proc/self/status").unwrap_or_default();
        let own = entry(&status, "RssAnon:").unwrap_or(0);
        let limits = read("/proc/self/limits").unwrap_or_default();
        // A limit counts what is mapped, touched or not.
        let within = |name: &str, used: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
            let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(limit.saturating_sub(entry(&status, used)?))
        };
        let free = [
            read("/proc/meminfo").and_then(|text| entry(&text, "MemAvailable:")),
            groups(read),
            within("Max address space", "VmSize:"),
            within("Max data size", "VmData:"),
        ];
        free.into_iter().flatten().min().map(|free| free + own)
    }

    /// The bytes that the control groups of this process leave it: the least of its group and those above.
    fn groups(read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
        let of_process = read("/proc/self/cgroup")?;
        let mut least = None;
        for line in of_process.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            // Version 2 has one tree for all controllers, version 1 a tree for each.
            let (root, limit, used) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
                _ if controllers.split(',').any(|name| name == "memory") => {
                    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
                }
                _ => continue,
            };
            // In a container the path may be the host's: then only the root is there.
            for group in std::path::Path::new(path).ancestors().filter_map(|path| path.to_str()) {
                let group = group.trim_end_matches('/');
                let number =
                    |name: &str| read(&format!("{root}{group}/{name}"))?.trim().parse().ok();
                let (Some(limit), Some(used)) = (number(limit), number(used)) else { continue };
                let statistics = read(&format!("{root}{group}/memory.stat")).unwrap_or_default();
                let cache = statistics.lines().find_map(|line| line.strip_prefix("inactive_file "));
                let cache: u64 = cache.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
                let left = u64::saturating_sub(limit, u64::saturating_sub(used, cache));
                least = Some(least.map_or(left, |least: u64| least.min(left)));
            }
        }
        least
    }

    /// The kilobytes that a line of one of the kernel's lists gives, as bytes.
    fn entry(text: &str, name: &str) -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes << 10)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_least_limit_counts() {
        let meminfo = "MemTotal:       100 kB\nMemAvailable:   80 kB\n";
        let status = "VmSize:\t 30 kB\nVmData:\t 20 kB\nRssAnon:\t 10 kB\n";
        let by = |more: &[(&str, &str)]| {
            let files = [("/proc/meminfo", meminfo), ("/proc/self/status", status)];
            linux::available_by(&|path| {
                let mut all = files.iter().chain(more);
                all.find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
            })
        };
        assert_eq!(by(&[]), Some(90 << 10));
        let limits = "Max data size     unlimited   unlimited   bytes\n\
                      Max address space 51200       unlimited   bytes\n";
        assert_eq!(by(&[("/proc/self/limits", limits)]), Some(30 << 10));
        let two = [
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/b/memory.current", "1\n"),
            ("/sys/fs/cgroup/a/memory.max", "65536\n"),
            ("/sys/fs/cgroup/a/memory.current", "40960\n"),
            ("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 16384\n"),
        ];
        assert_eq!(by(&two), Some((40 << 10) + (10 << 10)));
        let one = [
            ("/proc/self/cgroup", "3:cpu:/x\n2:memory:/docker/x\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "20480\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "4096\n"),
        ];
        assert_eq!(by(&one), Some((16 << 10) + (10 << 10)));
        let found = available().zip(anonymous());
        assert!(found.is_some_and(|(all, own)| all > own && own > 1 << 16), "{found:?}");
    }
}
