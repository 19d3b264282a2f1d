//! Records of requests: each one of a protected route, when it has ended.

use std::net::IpAddr;

use dgx_gateway_filter::audit::{Audit, AuditEvent, AuditRecord, HttpEvent, RequestObserver};
use dgx_gateway_filter::facts::{Caller, ClientIp, ModelChoice, Principal};
use dgx_gateway_filter::{FinishCx, Outcome};

use crate::log::AuditLog;

/// Status of a request whose client left before it had one.
const CLIENT_LEFT: u16 = 499;

impl RequestObserver for AuditLog {
    fn ended(&self, outcome: &Outcome, cx: &FinishCx<'_>) {
        if !cx.request.protected {
            return;
        }
        let caller = cx.facts.get::<Caller>();
        let choice = cx.facts.get::<ModelChoice>();
        let event = AuditEvent::Http(HttpEvent {
            method: cx.request.method.as_str(),
            route: &cx.request.route,
            status: cx.traffic.map(|traffic| traffic.status.map_or(CLIENT_LEFT, |status| status.as_u16())),
            error_code: match outcome {
                Outcome::Answered { code, .. } => code.map(|code| code.as_str()),
                Outcome::Cut(code) => Some(code.as_str()),
                Outcome::ClientLeft | Outcome::Dropped => None,
            },
            duration: cx.duration,
            bytes_in: cx.traffic.map(|traffic| traffic.bytes_in),
            bytes_out: cx.traffic.map(|traffic| traffic.bytes_out),
            client_ip: client_ip(cx),
            model: choice.map(|choice| &*choice.slug),
            stream: choice.map(|choice| choice.stream),
            aborted: !matches!(outcome, Outcome::Answered { .. }),
            depth: caller.map_or(0, |caller| caller.depth),
        });
        self.record(&AuditRecord::of_request(cx.request, caller, cx.facts.get::<Principal>(), event));
    }
}

fn client_ip(cx: &FinishCx<'_>) -> Option<IpAddr> {
    let stated = cx.facts.get::<ClientIp>().map(|client| client.0);
    stated.or_else(|| cx.request.peer.map(|peer| peer.ip())).map(|ip| ip.to_canonical())
}
