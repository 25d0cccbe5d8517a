//! Why a probe is not there, with the evidence and what to do about it.

use std::error::Error;
use std::path::PathBuf;

use aya::EbpfError;
use aya::programs::ProgramError;

/// Characters of the verifier's log that are kept: its end, where it says what it refused.
const VERIFIER_LOG_CHARS_MAX: usize = 4096;

/// Why a probe cannot be attached here. Nothing is broken by it: whoever wanted the probe goes on without, and shows this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Absent {
    /// The calling thread lacks capabilities.
    #[error("this process has no {}", missing.join(" and no "))]
    Rights {
        /// Their names, such as `CAP_BPF`.
        missing: Vec<&'static str>,
    },
    /// The kernel numbers processes as the initial pid namespace does, and this process does not live there.
    #[error("this process runs in a pid namespace of its own ({namespace}), so it cannot name processes to the kernel")]
    PidNamespace {
        /// As `/proc/self/ns/pid` gives it, or why it could not be read.
        namespace: String,
    },
    /// The kernel's type information cannot be had.
    #[error("the kernel's type information {} cannot be used: {reason}", path.display())]
    Btf {
        /// Where it was looked for.
        path: PathBuf,
        /// What the file system or the format said.
        reason: String,
    },
    /// The kernel's type information has no such field: it is a kernel that this probe does not know.
    #[error("this kernel has no field `{field}` in `struct {structure}`")]
    Field {
        /// Name of the structure.
        structure: &'static str,
        /// Name of its member.
        field: &'static str,
    },
    /// The kernel was asked and does not have it.
    #[error("this kernel has no {what}")]
    Unsupported {
        /// The kernel's feature.
        what: &'static str,
    },
    /// The kernel refused although everything asked before seemed right.
    #[error("the kernel refused to {step}: {cause}{}", verifier_log.as_deref().map(|log| format!("\n{log}")).unwrap_or_default())]
    Refused {
        /// What was attempted.
        step: &'static str,
        /// The whole chain of causes.
        cause: String,
        /// The end of the verifier's log, when the verifier was the one who refused.
        verifier_log: Option<String>,
    },
}

impl Absent {
    /// One word for a metric's label: the same for every instance of a variant.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Rights { .. } => "rights",
            Self::PidNamespace { .. } => "pid_namespace",
            Self::Btf { .. } => "btf",
            Self::Field { .. } => "field",
            Self::Unsupported { .. } => "unsupported",
            Self::Refused { .. } => "refused",
        }
    }

    /// What a person can do to have the probe: an imperative sentence.
    pub fn action(&self) -> String {
        match self {
            Self::Rights { missing } => format!(
                "grant {} (systemd: AmbientCapabilities=, Kubernetes: securityContext.capabilities.add), or do without this probe",
                missing.join(" and ")
            ),
            Self::PidNamespace { .. } => "run the agent in the host's pid namespace (Kubernetes: hostPID: true)".into(),
            Self::Btf { path, .. } => {
                format!("run a kernel built with CONFIG_DEBUG_INFO_BTF and let the agent read {}", path.display())
            }
            Self::Field { structure, field } => {
                format!("report this kernel's release: the probe must learn where `{structure}.{field}` went")
            }
            Self::Unsupported { what } => format!("run a kernel that has {what}, or do without this probe"),
            Self::Refused { verifier_log: Some(_), .. } => "report this kernel's release together with the verifier's log".into(),
            Self::Refused { verifier_log: None, .. } => {
                "allow bpf(2): look at the seccomp profile, the kernel's lockdown mode, user namespaces \
                 and, on kernels that charge maps to it, the memlock limit (systemd: LimitMEMLOCK=infinity)"
                    .into()
            }
        }
    }

    /// What the loader says when the kernel refused; the verifier's log is taken out of the chain and kept apart.
    pub(crate) fn refused(step: &'static str, error: &(dyn Error + 'static)) -> Self {
        let mut causes: Vec<String> = Vec::new();
        let mut verifier_log = None;
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(ProgramError::LoadError { verifier_log: log, .. }) = error.downcast_ref() {
                verifier_log = Some(end_of(&log.to_string()));
                causes.push("the verifier did not accept the program".into());
            } else if error.downcast_ref::<EbpfError>().is_none_or(|error| error.source().is_none()) {
                // The loader's outer error only repeats its source.
                causes.push(error.to_string());
            }
            next = error.source();
        }
        causes.dedup();
        Self::Refused { step, cause: causes.join(": "), verifier_log }
    }
}

fn end_of(log: &str) -> String {
    let log = log.trim();
    let skipped = log.chars().count().saturating_sub(VERIFIER_LOG_CHARS_MAX);
    log.chars().skip(skipped).collect()
}
