//! A cgroup (v2) of its own for each engine's life, where the agent may make one: the only fence that no descendant climbs over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Tries to remove a cgroup whose last member has just ended.
const REMOVE_TRIES: usize = 5;
const REMOVE_AGAIN: Duration = Duration::from_millis(10);

/// Where the agent's own cgroup lies in the file system; engines' cgroups are made below it.
#[derive(Clone, Debug)]
pub struct CgroupBase(PathBuf);

impl CgroupBase {
    /// Reads the agent's own place. The error says why there is none.
    pub fn find(proc: &Path) -> Result<Self, String> {
        let mounts = fs::read_to_string(proc.join("self/mountinfo")).map_err(|error| format!("mountinfo: {error}"))?;
        let mount = mount_point(&mounts).ok_or("no cgroup v2 is mounted")?;
        let own = fs::read_to_string(proc.join("self/cgroup")).map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("the agent is in no v2 cgroup")?;
        let path = Path::new(mount).join(own.trim_start_matches('/'));
        if !path.join("cgroup.procs").exists() {
            return Err(format!("{} is not there: the agent's cgroup lies outside its mount", path.display()));
        }
        Ok(Self(path))
    }

    /// Makes the cgroup of one life.
    pub fn create(&self, life: &str) -> io::Result<Cgroup> {
        let path = self.0.join(format!("trackside-{life}"));
        fs::create_dir(&path)?;
        if !path.join("cgroup.kill").exists() {
            fs::remove_dir(&path)?;
            return Err(io::Error::other("the kernel has no cgroup.kill (before 5.14)"));
        }
        Ok(Cgroup(path))
    }
}

/// Second column but two of the first line whose type is cgroup2: `id parent major:minor root MOUNT options… - cgroup2 …`.
fn mount_point(mountinfo: &str) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4))?
    })
}

/// The cgroup of one engine's life.
#[derive(Clone, Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// The one recorded by an earlier agent; `None` if it is gone.
    pub fn adopt(path: &Path) -> Option<Self> {
        path.join("cgroup.kill").exists().then(|| Self(path.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn add(&self, pid: u32) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
    }

    pub fn members(&self) -> Vec<u32> {
        let listed = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        listed.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// SIGKILL to all members at once, those included that fork meanwhile.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.kill"), "1")
    }

    /// Removes it; a cgroup with members stays. Blocks for a moment where the kernel has not let go of the last member yet.
    pub fn remove(&self) {
        for _ in 0..REMOVE_TRIES {
            match fs::remove_dir(&self.0) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => tracing::debug!(path = %self.0.display(), %error, "cgroup stays"),
            }
            thread::sleep(REMOVE_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_beside_v1_mounts() {
        let hybrid = "33 32 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu\n\
                      42 32 0:38 / /sys/fs/cgroup/unified rw,relatime shared:14 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("33 32 0:29 / /a rw - cgroup cgroup rw,cpu\n"), None);
    }
}
