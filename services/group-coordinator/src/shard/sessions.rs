//! The streams of gateways to one shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use walser_group::GatewayId;
use walser_rpc::{ApiError, Reason};

use super::gathering::Deferred;
use super::member_log::MemberLine;
use crate::outbox::NoticeSink;

/// One stream per gateway.
#[derive(Default)]
pub(super) struct Sessions {
    sinks: BTreeMap<GatewayId, Arc<dyn NoticeSink>>,
}

// === impl Sessions ===

impl Sessions {
    /// A gateway has opened its stream; one before it ends.
    pub(super) fn connect(&mut self, gateway: GatewayId, sink: Arc<dyn NoticeSink>) {
        self.sinks.retain(|_, sink| !sink.is_closed());
        if let Some(before) = self.sinks.insert(gateway, sink) {
            before.end(ApiError::new(Reason::StaleEpoch, "the gateway has opened another stream"));
        }
    }

    /// Releases an answer and notices. Those to a gateway without a stream are lost: it hears of them when it asks.
    pub(super) fn release(&self, deferred: Deferred) {
        let Deferred { answer, notices, lines, .. } = deferred;
        lines.iter().for_each(MemberLine::log);
        if let Some(answer) = answer {
            answer(Ok(()));
        }
        for notice in notices {
            if let Some(sink) = self.sinks.get(&notice.gateway) {
                sink.tell(notice);
            }
        }
    }

    /// Ends every stream.
    pub(super) fn end_all(&mut self, why: &ApiError) {
        for sink in std::mem::take(&mut self.sinks).into_values() {
            sink.end(why.clone());
        }
    }
}
