//! What goes wrong with TLS, in words that say what to do.

use std::error::Error;

use rustls::{AlertDescription, CertificateError};

/// What is said of a port with TLS that was called without.
pub const SPOKEN_TO_WITHOUT: &str = "the other side speaks TLS, and was spoken to without";

/// The other side was reached, and there is no agreement with it: nothing of a call was sent.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {0}")]
pub struct HandshakeError(pub(crate) std::io::Error);

/// Whether nothing of a call can have been done, by one of the causes of this error: TLS was not agreed on, or the other side
/// has it and was spoken to without.
pub fn nothing_begun(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<HandshakeError>() || wants_tls(error) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a connection was ended because it has no TLS.
fn wants_tls(error: &(dyn Error + 'static)) -> bool {
    let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
    reason == Some(h2::Reason::INADEQUATE_SECURITY)
}

/// What TLS says is wrong, if that is among the causes of this error.
pub fn in_words(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(HandshakeError(inner)) = error.downcast_ref() {
            return Some(inner.to_string());
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(words(tls));
        }
        let http2 = error.downcast_ref::<h2::Error>();
        if wants_tls(error) {
            return Some(SPOKEN_TO_WITHOUT.to_owned());
        }
        // Both hide what they were made of from those who follow causes.
        let io = http2.and_then(h2::Error::get_io).or_else(|| error.downcast_ref());
        let inner = io.and_then(std::io::Error::get_ref);
        cause = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn words(error: &rustls::Error) -> String {
    use AlertDescription as Alert;
    match error {
        rustls::Error::InvalidMessage(_) => "the other side does not speak TLS".to_owned(),
        rustls::Error::NoCertificatesPresented => "the other side has shown no certificate".to_owned(),
        rustls::Error::InvalidCertificate(why) => format!("the other side's certificate {}", of_certificate(why)),
        rustls::Error::AlertReceived(alert) => match alert {
            Alert::CertificateRequired => "the other side wants a certificate, and none was shown".to_owned(),
            Alert::CertificateExpired => "the other side says that our certificate has expired".to_owned(),
            Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown | Alert::DecryptError => {
                "the other side does not believe our certificate: another authority has signed it".to_owned()
            }
            Alert::UnsupportedCertificate => {
                "the other side says that our certificate is not one of a client".to_owned()
            }
            Alert::ProtocolVersion => {
                "the other side speaks another version of TLS; 1.2 and 1.3 are spoken here".to_owned()
            }
            Alert::NoApplicationProtocol => "the other side does not speak HTTP/2".to_owned(),
            other => format!("the other side refuses TLS: {other:?}"),
        },
        other => other.to_string(),
    }
}

fn of_certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: compare the clocks of the two machines".to_owned()
        }
        // An authority of the same name, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "was signed by an authority that is not believed here".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("is for other names: {why}")
        }
        other => format!("cannot be used: {other}"),
    }
}
