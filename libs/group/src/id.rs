//! Names of groups, members, instances and gateways, and the numbers that fence them.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name of a group, a member, an instance or a gateway, in bytes, inclusive.
pub const NAME_BYTES_MAX: usize = 256;

/// A text that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is empty; it needs 1 to {NAME_BYTES_MAX} bytes")]
    Empty,
    /// The name is longer than [`NAME_BYTES_MAX`].
    #[error("the name has {0} bytes; at most {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// A control character, such as a line feed.
    #[error("the name contains the control character {0:?}; use printable characters")]
    Control(char),
}

/// Defines a validated text of 1 to [`NAME_BYTES_MAX`] bytes without control characters.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.into()))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name! {
    /// Names a group.
    GroupId
}
name! {
    /// Names a member for its whole life. The gateway chooses a UUID, so that a repeated join is recognised (KIP-1082).
    MemberId
}
name! {
    /// Names a static member across restarts of its client.
    InstanceId
}
name! {
    /// Names one process of a gateway: a gateway that restarts has another one.
    GatewayId
}

/// A group epoch, an assignment epoch or a member epoch of KIP-848: all three count on one line, from 1 in each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupEpoch(pub i32);

/// The epoch of a coordinator of one shard. Of two coordinators the one with the higher epoch is the later one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoordinatorEpoch(pub i64);

/// Signs the tokens of the members of a shard, so that nobody makes one up. Only coordinators and gateways have it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenKey(pub [u8; 32]);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// Numbers the attachments of members to gateways within a shard. A higher one fences lower ones of the same member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AttachmentNumber(pub i64);

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    match text.chars().find(|char| char.is_control()) {
        Some(control) => Err(NameError::Control(control)),
        None => Ok(()),
    }
}

// === impl CoordinatorEpoch ===

impl fmt::Display for CoordinatorEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl GroupEpoch ===

impl GroupEpoch {
    /// The epoch of a member that has no assignment yet, and of an assignment that was never computed.
    pub const ZERO: Self = Self(0);

    /// The next epoch. Saturates: at most one epoch begins per assignment interval, which lasts for years.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for GroupEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AttachmentNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_printable() {
        assert!("billing".parse::<GroupId>().is_ok());
        assert!("x".repeat(256).parse::<GroupId>().is_ok());
        assert_eq!("".parse::<GroupId>(), Err(NameError::Empty));
        assert_eq!("x".repeat(257).parse::<GroupId>(), Err(NameError::TooLong(257)));
        assert_eq!("a\nb".parse::<GroupId>(), Err(NameError::Control('\n')));
    }
}
