//! Names that cannot be swapped: nodes, engines, replicas, models, addresses, digests.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Longest accepted name of a node, engine, replica, model or adapter, in bytes. Kubernetes names end at 253; Hub ids are shorter.
pub const NAME_BYTES_MAX: usize = 256;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            pub fn new(name: impl AsRef<str>) -> Self {
                Self(Arc::from(name.as_ref()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $type {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }
    };
}

name!(
    /// A machine that runs a node agent; its host name unless configured.
    NodeId
);
name!(
    /// An engine's name on its node: `engine-0` for slot 0. It outlives restarts of the process; [`Incarnation`] does not.
    EngineName
);

/// An engine in the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EngineId {
    pub node: NodeId,
    pub name: EngineName,
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.name)
    }
}

/// One life of a process. Drawn at random when the process starts, so that nothing said of an earlier life is taken for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// A scheduler replica in one of its lives; written `<name>/<incarnation>` in the header `x-trackside-replica`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId {
    pub name: Arc<str>,
    pub incarnation: Incarnation,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.incarnation)
    }
}

impl FromStr for ReplicaId {
    type Err = InvalidReplica;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, incarnation) = text.rsplit_once('/').ok_or(InvalidReplica)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(InvalidReplica);
        }
        Ok(Self { name: Arc::from(name), incarnation: incarnation.parse().map_err(|_| InvalidReplica)? })
    }
}

/// A replica header that is not `<name>/<incarnation in hex>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidReplica;

impl fmt::Display for InvalidReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a replica is written <name>/<incarnation in hex>")
    }
}

impl std::error::Error for InvalidReplica {}

/// What a client asks for: a base model, or an adapter on it. Two adapters of one base share weights and never KV blocks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId {
    pub base: Arc<str>,
    pub adapter: Option<Arc<str>>,
}

impl ModelId {
    pub fn base(name: impl AsRef<str>) -> Self {
        Self { base: Arc::from(name.as_ref()), adapter: None }
    }

    /// The name a client uses: the adapter's where there is one, as vLLM serves them.
    pub fn served_name(&self) -> &str {
        self.adapter.as_deref().unwrap_or(&self.base)
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.served_name())
    }
}

/// Where an engine's requests go: its own port, or its proxy's. An engine's identity to routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DataAddress(pub SocketAddr);

impl fmt::Display for DataAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256 over a model's tokenizer and chat template: two engines with one digest turn the same messages into the same tokens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssetsDigest(pub [u8; 32]);

impl fmt::Display for AssetsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AssetsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AssetsDigest({self})")
    }
}

impl FromStr for AssetsDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(InvalidDigest);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| InvalidDigest)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidDigest)?;
        }
        Ok(Self(bytes))
    }
}

/// A digest that is not 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDigest;

impl fmt::Display for InvalidDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a digest is 64 hex digits")
    }
}

impl std::error::Error for InvalidDigest {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_header_round_trips_and_refuses_what_it_cannot_mean() {
        let replica = ReplicaId { name: Arc::from("east/a"), incarnation: Incarnation(0xfeed) };
        assert_eq!(replica.to_string().parse(), Ok(replica));
        for bad in ["", "a", "/1", "a/", "a/xyz", "a/11112222333344445"] {
            assert_eq!(bad.parse::<ReplicaId>(), Err(InvalidReplica), "{bad:?}");
        }
    }

    #[test]
    fn digest_round_trips() {
        let digest = AssetsDigest(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("00".parse::<AssetsDigest>(), Err(InvalidDigest));
        assert_eq!("é".repeat(32).parse::<AssetsDigest>(), Err(InvalidDigest));
    }
}
