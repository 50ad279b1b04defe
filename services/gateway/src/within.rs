//! Waiting for a limited time, at no cost for what is ready at once: most of what a write waits for.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::error::Elapsed;

/// What a future gives when it is polled once; `None` when it is not ready. The task is woken when it may be.
pub(crate) async fn at_once<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    poll_fn(|context| match Pin::new(&mut future).poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Waits for at most `limit`. A timer is made only for what is not ready at once.
///
/// # Errors
/// The time is over; the future is dropped.
pub(crate) async fn within<F: Future + Unpin>(limit: Duration, mut future: F) -> Result<F::Output, Elapsed> {
    match at_once(&mut future).await {
        Some(output) => Ok(output),
        None => tokio::time::timeout(limit, future).await,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn what_is_ready_needs_no_timer() {
        // There is no runtime here, and thus no timer.
        assert_eq!(within(Duration::ZERO, pin!(async { 7 })).now_or_never(), Some(Ok(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_ready_is_waited_for_until_its_time_is_over() {
        let soon = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        };
        assert_eq!(within(Duration::from_secs(2), pin!(soon)).await, Ok(7));
        assert!(within(Duration::from_secs(2), std::future::pending::<()>()).await.is_err());
    }
}
