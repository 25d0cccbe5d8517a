//! `datetime.strftime` in UTC, for templates that tell the model what day it is.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
#[rustfmt::skip]
const MONTHS: [&str; 12] = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

/// A moment, taken apart.
struct Moment {
    year: i64,
    /// 1 to 12.
    month: usize,
    /// 1 to 31.
    day: u32,
    /// 0 is Monday.
    weekday: usize,
    /// 1 to 366.
    day_of_year: u32,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Moment {
    fn of(now: SystemTime) -> Self {
        let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let days = (seconds / 86_400) as i64;
        let (year, month, day) = civil(days);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let before: [u32; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        Self {
            year,
            month,
            day,
            // The epoch was a Thursday.
            weekday: ((days + 3) % 7) as usize,
            day_of_year: before[month - 1] + u32::from(leap && month > 2) + day,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }
}

/// Days since 1970-01-01 to year, month and day (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
fn civil(days: i64) -> (i64, usize, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as usize, day as u32)
}

/// Formats a moment. A directive that is not known stays as it is written.
pub(crate) fn strftime(now: SystemTime, format: &str) -> String {
    let moment = Moment::of(now);
    let mut out = String::with_capacity(format.len() * 2);
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('-') => {
                let mut padded = String::new();
                match chars.next() {
                    Some(directive) => write_directive(&mut padded, directive, &moment),
                    None => padded.push_str("%-"),
                }
                let unpadded = padded.trim_start_matches('0');
                out.push_str(if unpadded.is_empty() { "0" } else { unpadded });
            }
            Some(directive) => write_directive(&mut out, directive, &moment),
            None => out.push('%'),
        }
    }
    out
}

fn write_directive(out: &mut String, directive: char, at: &Moment) {
    let hour12 = (at.hour + 11) % 12 + 1;
    let written = match directive {
        'Y' => write!(out, "{:04}", at.year),
        'y' => write!(out, "{:02}", at.year % 100),
        'm' => write!(out, "{:02}", at.month),
        'B' => write!(out, "{}", MONTHS[at.month - 1]),
        'b' | 'h' => write!(out, "{}", &MONTHS[at.month - 1][..3]),
        'd' => write!(out, "{:02}", at.day),
        'e' => write!(out, "{:>2}", at.day),
        'j' => write!(out, "{:03}", at.day_of_year),
        'A' => write!(out, "{}", DAYS[at.weekday]),
        'a' => write!(out, "{}", &DAYS[at.weekday][..3]),
        'w' => write!(out, "{}", (at.weekday + 1) % 7),
        'u' => write!(out, "{}", at.weekday + 1),
        'H' => write!(out, "{:02}", at.hour),
        'I' => write!(out, "{hour12:02}"),
        'M' => write!(out, "{:02}", at.minute),
        'S' => write!(out, "{:02}", at.second),
        'p' => write!(out, "{}", if at.hour < 12 { "AM" } else { "PM" }),
        'F' => write!(out, "{:04}-{:02}-{:02}", at.year, at.month, at.day),
        'T' => write!(out, "{:02}:{:02}:{:02}", at.hour, at.minute, at.second),
        'D' => write!(out, "{:02}/{:02}/{:02}", at.month, at.day, at.year % 100),
        // A naive datetime has no zone.
        'Z' | 'z' => Ok(()),
        '%' => write!(out, "%"),
        other => write!(out, "%{other}"),
    };
    written.expect("writing to a string cannot fail");
}
