//! What the fake library says: a machine (data) with a script (a patch) over it, both JSON, the script read again whenever it changes.
//!
//! A GPU is a table of values named as the calls that ask for them (`PowerUsage` answers `nvmlDeviceGetPowerUsage`); a value that is not
//! there is `NVML_ERROR_NOT_SUPPORTED`, as on a card that lacks it. A counter that moves is `{"from": n, "per_s": rate}`.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

/// Machines that a script may name.
const MACHINES: [(&str, &str); 2] =
    [("h200_sxm_8", include_str!("../machines/h200_sxm_8.json")), ("a100_mig", include_str!("../machines/a100_mig.json"))];

/// Name of the script, beside the library.
pub const SCRIPT: &str = "nvml.json";

pub const SUCCESS: u32 = 0;
pub const INVALID_ARGUMENT: u32 = 2;
pub const NOT_SUPPORTED: u32 = 3;
pub const NOT_FOUND: u32 = 6;
pub const INSUFFICIENT_SIZE: u32 = 7;
pub const TIMEOUT: u32 = 10;
pub const GPU_IS_LOST: u32 = 15;
pub const UNKNOWN: u32 = 999;

/// How a call fails, as an NVML return code.
pub type Outcome<T> = Result<T, u32>;

struct Loaded {
    seen: Option<(SystemTime, u64, u64)>,
    looked: Instant,
    machine: Value,
    gpus: Vec<Value>,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);
static BEGIN: Mutex<Option<Instant>> = Mutex::new(None);

/// Between two looks at the script's time stamp.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Lays a patch over a value, as RFC 7386 says: objects merge, `null` removes, everything else replaces.
pub fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(object) = value else { return };
    for (key, change) in patch {
        if change.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

fn stamp(path: &PathBuf) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}

fn load(script: &Value) -> Option<(Value, Vec<Value>)> {
    let name = script.get("machine").and_then(Value::as_str).unwrap_or("h200_sxm_8");
    let (_, text) = MACHINES.iter().find(|(machine, _)| *machine == name)?;
    let mut machine: Value = serde_json::from_str(text).ok()?;
    merge(&mut machine, script);
    let count = machine.get("count").and_then(Value::as_u64).unwrap_or(1) as usize;
    let all = machine.get("gpu").cloned().unwrap_or_default();
    let gpus = (0..count).map(|i| {
        let mut gpu = all.clone();
        if let Some(own) = machine.get("gpus").and_then(|gpus| gpus.get(i.to_string())) {
            merge(&mut gpu, own);
        }
        gpu
    });
    let gpus = gpus.collect();
    Some((machine, gpus))
}

fn loaded() -> MutexGuard<'static, Option<Loaded>> {
    let mut guard = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if guard.as_ref().is_some_and(|loaded| now - loaded.looked < LOOK_EVERY) {
        return guard;
    }
    let path = crate::place::folder().join(SCRIPT);
    let seen = stamp(&path);
    match guard.as_mut() {
        Some(loaded) if loaded.seen == seen => loaded.looked = now,
        _ => {
            let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".into());
            // A script that is no JSON is not silently another machine.
            let read = serde_json::from_str(&text).ok().and_then(|script: Value| load(&script));
            let (machine, gpus) = read.unwrap_or((Value::Null, Vec::new()));
            *guard = Some(Loaded { seen, looked: now, machine, gpus });
        }
    }
    guard
}

/// Seconds since the first call.
fn seconds() -> f64 {
    let mut begin = BEGIN.lock().unwrap_or_else(PoisonError::into_inner);
    begin.get_or_insert_with(Instant::now).elapsed().as_secs_f64()
}

/// Asks the machine.
pub fn machine<T>(read: impl FnOnce(&Value) -> T) -> T {
    read(loaded().as_ref().map_or(&Value::Null, |loaded| &loaded.machine))
}

/// Asks one GPU.
pub fn gpu<T>(index: usize, read: impl FnOnce(&Gpu<'_>) -> Outcome<T>) -> Outcome<T> {
    let loaded = loaded();
    let value = loaded.as_ref().and_then(|loaded| loaded.gpus.get(index)).ok_or(INVALID_ARGUMENT)?;
    read(&Gpu { value })
}

pub fn gpu_count() -> usize {
    loaded().as_ref().map_or(0, |loaded| loaded.gpus.len())
}

/// What a call does before it answers.
pub fn behave(call: &str, index: Option<usize>) -> Outcome<()> {
    loop {
        let behaviour = {
            let loaded = loaded();
            let of = |value: &Value| {
                let calls = value.get("calls")?;
                calls.get(call).or_else(|| calls.get("*")).cloned()
            };
            let own = index.and_then(|index| of(loaded.as_ref()?.gpus.get(index)?));
            own.or_else(|| of(&loaded.as_ref()?.machine)).unwrap_or(Value::Null)
        };
        if behaviour.get("hang").and_then(Value::as_bool) == Some(true) {
            // Until the script says otherwise.
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        if let Some(ms) = behaviour.get("slow_ms").and_then(Value::as_u64) {
            std::thread::sleep(Duration::from_millis(ms));
        }
        return match behaviour.get("error").and_then(Value::as_u64) {
            Some(code) => Err(code as u32),
            None => Ok(()),
        };
    }
}

/// One GPU's table.
pub struct Gpu<'s> {
    value: &'s Value,
}

impl Gpu<'_> {
    pub fn get(&self, key: &str) -> Outcome<&Value> {
        self.value.get(key).ok_or(NOT_SUPPORTED)
    }

    pub fn text(&self, key: &str) -> Outcome<&str> {
        self.get(key)?.as_str().ok_or(NOT_SUPPORTED)
    }

    pub fn number(&self, key: &str) -> Outcome<f64> {
        number(self.get(key)?)
    }

    /// One of a list, for calls that ask by kind.
    pub fn item(&self, key: &str, index: usize) -> Outcome<f64> {
        match self.get(key)? {
            Value::Array(items) => number(items.get(index).ok_or(NOT_SUPPORTED)?),
            value => number(value),
        }
    }

    /// A value inside a table of the GPU.
    pub fn inner(&self, key: &str, inner: &str) -> Outcome<f64> {
        number(self.get(key)?.get(inner).ok_or(NOT_SUPPORTED)?)
    }

    pub fn field(&self, id: u32, scope: u32) -> Outcome<f64> {
        let fields = self.get("Fields")?;
        let found = fields.get(format!("{id}:{scope}")).or_else(|| fields.get(id.to_string()));
        number(found.ok_or(NOT_SUPPORTED)?)
    }
}

/// A number as it stands at this moment.
pub fn number(value: &Value) -> Outcome<f64> {
    match value {
        Value::Number(number) => number.as_f64().ok_or(UNKNOWN),
        Value::Bool(truth) => Ok(f64::from(u8::from(*truth))),
        Value::Object(moving) => {
            let part = |key: &str| moving.get(key).and_then(Value::as_f64).ok_or(UNKNOWN);
            Ok((part("from")? + part("per_s")? * seconds()).floor())
        }
        _ => Err(NOT_SUPPORTED),
    }
}
