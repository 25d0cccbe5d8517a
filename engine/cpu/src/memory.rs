//! How much memory this process may still take: what the machine has, and what each cgroup above the process leaves.

use std::fs;
use std::path::{Path, PathBuf};

/// Where cgroup hierarchies are mounted; version 1 has its memory controller in a folder of its own.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes that can be taken without anybody being killed for it; page cache counts as free. `None`: nothing says.
pub(crate) fn available() -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).ok();
    available_of(&read)
}

fn available_of(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| field(&text, "MemAvailable:")).map(|kib| kib * 1024);
    let cgroups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    cgroups.lines().flat_map(folders).filter_map(|folder| left(read, &folder)).chain(machine).min()
}

/// The folders of a process's cgroup, one line of `/proc/self/cgroup`, and of all above it, where memory is accounted for.
fn folders(line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let root = match fields.next() {
        Some("") => PathBuf::from(CGROUPS),
        Some(controllers) if controllers.split(',').any(|name| name == "memory") => Path::new(CGROUPS).join("memory"),
        _ => return Vec::new(),
    };
    let own = fields.next().unwrap_or_default().trim_start_matches('/');
    Path::new(own).ancestors().map(|above| root.join(above)).collect()
}

/// What a cgroup leaves; `None` if it has no limit.
fn left(read: &dyn Fn(&Path) -> Option<String>, folder: &Path) -> Option<u64> {
    let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = read(&folder.join("memory.stat")).unwrap_or_default();
    let file = |name: &str| field(&stat, &format!("total_{name}")).or_else(|| field(&stat, name)).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(file("inactive_file") + file("active_file"))))
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(name))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn check(files: &[(&str, &str)], expected: Option<u64>) {
        let files: HashMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
        assert_eq!(available_of(&|path| files.get(path).map(|text| (*text).to_owned())), expected, "{files:?}");
    }

    #[test]
    fn the_smallest_of_all_limits_counts() {
        let machine = ("/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:   4000 kB\n");
        check(&[], None);
        check(&[machine], Some(4000 << 10));
        let v2 = ("/proc/self/cgroup", "0::/kubepods/pod1/engine\n");
        let files = |max| {
            [
                machine,
                v2,
                ("/sys/fs/cgroup/kubepods/pod1/memory.max", max),
                ("/sys/fs/cgroup/kubepods/pod1/memory.current", "1000000\n"),
                ("/sys/fs/cgroup/kubepods/pod1/memory.stat", "anon 1\ninactive_file 200000\nactive_file 100000\n"),
            ]
        };
        check(&files("2000000\n"), Some(1_300_000));
        check(&files("max\n"), Some(4000 << 10));
        check(&files("500000\n"), Some(0));
        let v1 = [
            machine,
            ("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a/b\n"),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000000"),
            ("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1000000"),
            ("/sys/fs/cgroup/memory/a/memory.stat", "inactive_file 5\ntotal_inactive_file 500000\n"),
            ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712"),
            ("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "1000000"),
        ];
        check(&v1, Some(2_500_000));
    }
}
