//! What the driver of a shard is asked: a request, with whoever waits for the answer.

use walser_group::{GroupShard, Now, Output};
use walser_rpc::{ApiError, Reason};

/// Releases the answer of a request that was handled, once it is known whether what it wrote is replicated.
pub(crate) type Release = Box<dyn FnOnce(Result<(), ApiError>) + Send>;

/// A request to a shard.
pub(crate) trait ShardRequest: Send {
    /// Has the shard handle it. What is returned tells the answer.
    fn handle(self: Box<Self>, shard: &mut GroupShard, now: Now, out: &mut Output) -> Release;

    /// Answers that it was not handled.
    fn refuse(self: Box<Self>, failure: ApiError);
}

/// A request that is one method of a shard.
pub(crate) struct Call<F, D> {
    handle: F,
    /// Told once, also when the driver ends.
    done: D,
}

/// Nothing of the shard is known now, and the caller tries again.
pub(crate) fn not_available(why: &str) -> ApiError {
    ApiError::new(Reason::CoordinatorNotAvailable, format!("the shard of the group {why}; try again"))
}

// === impl Call ===

impl<F, D> Call<F, D> {
    /// `handle` is called at most once, and `done` once, on the driver: neither MAY block.
    pub(crate) fn boxed<T>(handle: F, done: D) -> Box<dyn ShardRequest>
    where
        T: Send + 'static,
        F: FnOnce(&mut GroupShard, Now, &mut Output) -> Result<T, ApiError> + Send + 'static,
        D: FnOnce(Result<T, ApiError>) + Send + 'static,
    {
        Box::new(Self { handle, done })
    }
}

impl<F, D, T> ShardRequest for Call<F, D>
where
    T: Send + 'static,
    F: FnOnce(&mut GroupShard, Now, &mut Output) -> Result<T, ApiError> + Send,
    D: FnOnce(Result<T, ApiError>) + Send + 'static,
{
    fn handle(self: Box<Self>, shard: &mut GroupShard, now: Now, out: &mut Output) -> Release {
        let Self { handle, done } = *self;
        let answer = handle(shard, now, out);
        Box::new(move |written| done(written.and(answer)))
    }

    fn refuse(self: Box<Self>, failure: ApiError) {
        (self.done)(Err(failure));
    }
}
