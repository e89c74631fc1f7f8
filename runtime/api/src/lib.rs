//! Types that the operator and the runtime share.
