//! The one place that reads the wall clock, and the one that is counted from the boot. Everything else takes
//! the time as an argument.

/// Returns the present time in UTC, to the second, as `2026-11-23T12:00:00Z`.
#[expect(clippy::disallowed_methods, reason = "the one reader of the clock")]
pub fn now_utc() -> String {
    let now = std::time::SystemTime::now();
    jiff::Timestamp::try_from(now).map_or_else(
        |_| "1970-01-01T00:00:00Z".to_owned(),
        |stamp| stamp.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// Returns the present time as clocks show it where this machine is.
#[expect(clippy::disallowed_methods, reason = "the one reader of the clock")]
pub fn local() -> jiff::civil::DateTime {
    let now = jiff::Timestamp::try_from(std::time::SystemTime::now()).unwrap_or_default();
    jiff::tz::TimeZone::system().to_datetime(now)
}

/// Returns a moment, in microseconds since 1970-01-01 UTC, as `2026-11-23T12:00:00.123Z`.
pub fn utc_of_micros(micros: i64) -> Option<String> {
    let stamp = jiff::Timestamp::from_microsecond(micros).ok()?;
    Some(stamp.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// Returns the seconds since 1970-01-01 UTC.
#[expect(clippy::disallowed_methods, reason = "the one reader of the clock")]
pub fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Returns what tells this boot of the machine from others; empty where there is no such thing.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Returns the seconds since this machine was booted, those that it was asleep included. Nobody sets
/// this clock.
pub fn seconds_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(crate::system::SINCE_BOOT);
    u64::try_from(now.tv_sec).unwrap_or_default()
}
