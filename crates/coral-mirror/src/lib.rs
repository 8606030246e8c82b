//! Selection, plan, queue and copy.
