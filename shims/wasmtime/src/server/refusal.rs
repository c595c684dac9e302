//! The responses that the server itself gives.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response, StatusCode, Version};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use super::body::Guarded;

/// Checks a request before an instance is made for it. Adds the field Host to a request of HTTP/1.0
/// without it: a guest is given an authority.
pub(super) fn check<B: Body>(
    request: &mut Request<B>,
    body_max: Option<u64>,
) -> Result<(), StatusCode> {
    if body_max.is_some_and(|max| request.body().size_hint().lower() > max) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    if request.uri().authority().is_some() {
        return Ok(());
    }
    match request.headers().get(HOST) {
        Some(host) if host.to_str().is_ok() => Ok(()),
        None if request.version() < Version::HTTP_11 => {
            request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
            Ok(())
        }
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

/// A response without a guest's.
pub(super) fn response(status: StatusCode) -> Response<Guarded> {
    let text = format!("{}\n", status.canonical_reason().unwrap_or("error"));
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(Guarded::regular(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The status for an error that a guest gave in place of a response. The errors are those of RFC
/// 9209, which recommends these.
pub(super) fn status(error: &ErrorCode) -> StatusCode {
    match error {
        ErrorCode::DnsTimeout
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::HttpRequestDenied => StatusCode::FORBIDDEN,
        ErrorCode::HttpRequestLengthRequired => StatusCode::LENGTH_REQUIRED,
        ErrorCode::HttpRequestBodySize(_) => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::HttpRequestUriTooLong => StatusCode::URI_TOO_LONG,
        ErrorCode::HttpRequestMethodInvalid | ErrorCode::HttpRequestUriInvalid => {
            StatusCode::BAD_REQUEST
        }
        ErrorCode::HttpRequestHeaderSectionSize(_)
        | ErrorCode::HttpRequestHeaderSize(_)
        | ErrorCode::HttpRequestTrailerSectionSize(_)
        | ErrorCode::HttpRequestTrailerSize(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ErrorCode::ConnectionLimitReached | ErrorCode::DestinationUnavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorCode::ConfigurationError | ErrorCode::InternalError(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::BAD_GATEWAY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Method;

    #[test]
    fn a_request_has_an_authority_and_a_body_within_the_limit() {
        let check = |version, host: Option<&'static [u8]>, body: &'static str| {
            let mut request = Request::new(Full::new(Bytes::from(body)));
            *request.version_mut() = version;
            *request.method_mut() = Method::POST;
            if let Some(host) = host {
                request.headers_mut().insert(HOST, HeaderValue::from_bytes(host).unwrap());
            }
            check(&mut request, Some(3)).map(|()| request.headers().contains_key(HOST))
        };
        assert_eq!(check(Version::HTTP_11, Some(b"a"), "abc"), Ok(true));
        assert_eq!(check(Version::HTTP_10, None, ""), Ok(true));
        assert_eq!(check(Version::HTTP_11, None, ""), Err(StatusCode::BAD_REQUEST));
        assert_eq!(check(Version::HTTP_11, Some(b"\xff"), ""), Err(StatusCode::BAD_REQUEST));
        let large = check(Version::HTTP_11, Some(b"a"), "abcd");
        assert_eq!(large, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }
}
