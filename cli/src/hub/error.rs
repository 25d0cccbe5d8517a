//! What went wrong on the way to the Hub, for a person.

use std::io::ErrorKind;

use domain::{Fault, FaultKind};
use hf_hub::api::sync::ApiError;

use super::{Id, Settings};

/// Whether trying again, or doing without the Hub, may help: nobody answered, or the connection was lost.
pub fn is_unreachable(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => match &**error {
            ureq::Error::StatusCode(status) => *status == 408 || *status == 429 || *status >= 500,
            ureq::Error::Io(error) => !is_ours(error.kind()),
            ureq::Error::Timeout(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => {
                true
            }
            _ => false,
        },
        ApiError::IoError(error) => !is_ours(error.kind()),
        _ => false,
    }
}

/// Errors of this machine's own storage, not of the network.
fn is_ours(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::FileTooLarge
    )
}

pub fn fault(id: &Id, settings: &Settings, error: ApiError) -> Fault {
    let Settings { endpoint, cache, token, .. } = settings;
    if let ApiError::RequestError(request) = &error
        && let ureq::Error::StatusCode(status) = **request
    {
        let page = format!("{endpoint}/{}", id.name());
        return match status {
            401 | 403 => {
                let has = if token.is_some() { "the token given may not read it" } else { "no token was given" };
                let what = format!("{id} is gated or private, or does not exist: {endpoint} answered {status}, and {has}");
                let action = format!("accept its terms on {page}, then set HF_TOKEN to a token that may read it");
                Fault::new(FaultKind::Model, what, action)
            }
            404 => {
                let what = format!("{id} is neither a folder or file here nor a model on {endpoint}, or it has no such revision");
                Fault::new(FaultKind::Model, what, format!("check the spelling and the path; see {page}"))
            }
            status => {
                let what = format!("cannot fetch {id}: {endpoint} answered {status}");
                Fault::new(FaultKind::Unreachable, what, "try again later; what has arrived is kept")
            }
        };
    }
    let unreachable = is_unreachable(&error);
    match &error {
        ApiError::IoError(io) if is_ours(io.kind()) => {
            let what = format!("cannot keep {id} in {}", cache.display());
            let action = match io.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "free space there, or set HF_HOME to a larger disk; what has arrived is kept"
                }
                _ => "make it writable, or set HF_HOME to a folder that is",
            };
            Fault::new(FaultKind::Storage, what, action).because(error)
        }
        ApiError::LockAcquisition(lock) => {
            let what = format!("another process is fetching {id} ({})", lock.display());
            Fault::new(FaultKind::Storage, what, "wait for it, then start again")
        }
        _ if unreachable => {
            let what = format!("cannot fetch {id} from {endpoint}");
            let action = "check the network and HF_ENDPOINT, or give a local path; what has arrived is kept";
            Fault::new(FaultKind::Unreachable, what, action).because(error)
        }
        _ => {
            let what = format!("cannot fetch {id}: {endpoint} does not answer as the Hub does");
            Fault::new(FaultKind::Unreachable, what, "check HF_ENDPOINT and proxies").because(error)
        }
    }
}
