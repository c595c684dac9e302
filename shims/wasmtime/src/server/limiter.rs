//! The memory of a request.

use wasmtime::ResourceLimiter;

/// Limits the sum of all linear memories of an instance.
pub(crate) struct Limiter {
    /// The limit, bytes.
    limit: usize,
    used: usize,
    exceeded: bool,
}

impl Limiter {
    /// A limit of so many bytes.
    pub(super) fn new(limit: u64) -> Limiter {
        Limiter { limit: usize::try_from(limit).unwrap_or(usize::MAX), used: 0, exceeded: false }
    }

    /// No limit, for a program: its container has one.
    pub(crate) fn none() -> Limiter {
        Limiter { limit: usize::MAX, used: 0, exceeded: false }
    }

    /// Whether the guest was refused memory.
    pub(super) fn exceeded(&self) -> bool {
        self.exceeded
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let used = self.used.saturating_add(desired.saturating_sub(current));
        let fits = used <= self.limit;
        if fits {
            self.used = used;
        }
        self.exceeded |= !fits;
        Ok(fits)
    }

    /// The pool's tables have a size.
    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memories_of_an_instance_share_the_limit() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap() && !limiter.exceeded());
        assert!(!limiter.memory_growing(40, 41, None).unwrap() && limiter.exceeded());
    }
}
