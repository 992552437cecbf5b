use super::Error;

/// What has to be on the command line so that units may limit memory: the firmware of Pis switches that off.
const MEMORY_GROUP: &str = "cgroup_enable=memory";

/// What was flashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Raspberry Pi OS.
    RaspberryPiOs,
    /// Ubuntu, which has nobody who announces its name.
    Ubuntu,
}

/// What a boot partition says of itself.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// The names of the files on it.
    pub names: Vec<String>,
    /// `issue.txt` of Raspberry Pi OS.
    pub issue: Option<String>,
}

/// Tells what was flashed.
///
/// # Errors
/// [`Error::NoBoot`] and [`Error::NoCloudInit`].
pub fn image(found: &Image) -> Result<System, Error> {
    let has = |name: &str| found.names.iter().any(|found| found == name);
    if !has("config.txt") || !has("cmdline.txt") {
        return Err(Error::NoBoot);
    }
    if !has("user-data") && !has("meta-data") {
        let first = found.issue.as_deref().and_then(|text| text.lines().next()).unwrap_or("this image");
        let said = first.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(Error::NoCloudInit { said });
    }
    Ok(if found.issue.is_some() { System::RaspberryPiOs } else { System::Ubuntu })
}

/// Returns the kernel's command line with what lets units limit memory; none where it has that.
pub fn cmdline(now: &str) -> Option<String> {
    let line = now.lines().next().unwrap_or_default().trim();
    if line.split_ascii_whitespace().any(|word| word == MEMORY_GROUP) {
        return None;
    }
    Some(format!("{line} {MEMORY_GROUP}\n").trim_start().to_owned())
}
