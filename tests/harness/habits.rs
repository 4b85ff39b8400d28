//! How a test registry may be unlike the plain one, for good: what real registries do, each of them somewhere.

use super::FaultyRegistry;

/// How this registry is unlike the plain one, for good.
#[derive(Clone, Default)]
pub(super) struct Habits {
    /// The list of referrers is not kept here.
    pub(super) no_referrers: bool,
    /// Parts of blobs are not given out.
    pub(super) no_ranges: bool,
    /// Tags come in pages of so many.
    pub(super) page: usize,
    /// Upload locations are absolute and have this query.
    pub(super) location_query: Option<String>,
    /// Blobs of this repository are not told of.
    pub(super) hidden: Option<String>,
    /// What a mount is answered by: 201 by default.
    pub(super) mount: Mount,
    /// The status of an answer to PATCH.
    pub(super) patch_status: Option<u16>,
    /// Uploads go to this address.
    pub(super) elsewhere: Option<String>,
    /// Whatever is uploaded is taken for what it is said to be.
    pub(super) trusting: bool,
}

#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Mount {
    #[default]
    Done,
    /// An upload is begun instead.
    Session,
    /// It is an error.
    Forbidden,
}

impl FaultyRegistry {
    /// From now on without a list of referrers of its own.
    pub(crate) fn without_referrers(self) -> Self {
        self.with(|habits| habits.no_referrers = true);
        self
    }

    /// From now on without parts of blobs.
    pub(crate) fn ignore_ranges(&self) -> &Self {
        self.with(|habits| habits.no_ranges = true)
    }

    /// Gives tags out in pages of so many.
    pub(crate) fn page_tags(&self, page: usize) -> &Self {
        self.with(|habits| habits.page = page)
    }

    /// Names uploads by absolute addresses with this query.
    pub(crate) fn absolute_locations(&self, query: &str) -> &Self {
        self.with(|habits| habits.location_query = Some(query.to_owned()))
    }

    /// Does not tell that a repository has blobs.
    pub(crate) fn hide_blobs_of(&self, repository: &str) -> &Self {
        self.with(|habits| habits.hidden = Some(repository.to_owned()))
    }

    /// Begins an upload where a mount was asked for.
    pub(crate) fn refuse_mounts(&self) -> &Self {
        self.with(|habits| habits.mount = Mount::Session)
    }

    /// Answers a mount with an error.
    pub(crate) fn forbid_mounts(&self) -> &Self {
        self.with(|habits| habits.mount = Mount::Forbidden)
    }

    /// Answers PATCH with this status.
    pub(crate) fn answer_patch_with(&self, status: u16) -> &Self {
        self.with(|habits| habits.patch_status = Some(status))
    }

    /// Has uploads sent to another address.
    pub(crate) fn upload_to(&self, address: &str) -> &Self {
        self.with(|habits| habits.elsewhere = Some(address.to_owned()))
    }

    /// Takes whatever is uploaded for what it is said to be.
    pub(crate) fn trust(&self) -> &Self {
        self.with(|habits| habits.trusting = true)
    }
}
