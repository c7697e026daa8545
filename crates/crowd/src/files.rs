//! How many files this process may open, and so how many clients it may serve.

/// As many where the system does not say.
const FEW: usize = 1000;
/// As many are asked for. Usually a process may open few (1024) unless it asks.
const WANTED: libc::rlim_t = 40_000;

/// Asks for as many as are wanted, or as may be had. Each Redis server takes one, and a second one while it is ordered about.
pub fn raise() -> usize {
    allowed()
}

/// One part in so many of the files that this process may open, and no more than `most`.
pub fn share(one_in: usize, most: usize) -> usize {
    (allowed() / one_in).min(most)
}

fn allowed() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls read and write nothing but the struct that they are given.
    #[allow(unsafe_code)]
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return FEW;
        }
        if limit.rlim_cur < WANTED {
            let more = libc::rlimit { rlim_cur: WANTED.min(limit.rlim_max), ..limit };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &more) == 0 {
                limit = more;
            }
        }
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}
