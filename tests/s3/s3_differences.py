"""Where an endpoint differs from AWS on purpose: monofs, because a tree is not a flat list of keys; radosgw (16.2, Debian 12), because it is another
program, and an old one.

At monofs each of these tests is expected to fail, and one that passes is an error, so the table stays true; what is answered instead is tried in
``test_s3_own_answers``. At radosgw, whose other releases may do better, they are left out; with ``S3_DIFFERENCES=1`` they run, and those that pass
are told.
"""

from __future__ import annotations

from typing import NamedTuple

MONOFS = ("monofs", "directory", "store")
STORE = ("store",)
RADOSGW = ("radosgw",)


class Difference(NamedTuple):
    """``tests``: names of tests, each with its cases; none: all of them."""

    endpoints: tuple[str, ...]
    reason: str
    tests: dict[str, str]


DIFFERENCES = (
    Difference(
        ("directory",),
        "a store of files cannot hold a file beside a directory of its name",
        {
            "test_a_key_and_what_lies_below_it_are_two_objects": "",
        },
    ),
    Difference(
        MONOFS,
        "the signature covers a list of keys: a digest is checked where there is one, not demanded",
        {
            "test_a_list_needs_a_digest": "",
        },
    ),
    Difference(
        STORE + RADOSGW,
        "radosgw takes keys up to about 1,000 bytes",
        {
            "test_a_key_of_1024_bytes_is_a_key_and_one_more_is_none": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 knows no checksums but MD5 and SHA-256 of the body, and chunks only if signed, without trailers",
        {
            "test_a_checksum_goes_along": "",
            "test_a_checksum_in_a_header_is_kept_and_told": "",
            "test_a_checksum_in_a_trailer_is_kept_and_told": "",
            "test_a_checksum_of_another_kind_than_was_said_is_refused": "",
            "test_a_checksum_of_the_whole_is_compared": "",
            "test_a_checksum_that_cannot_be_is_refused": "",
            "test_a_checksum_that_is_none_is_refused": "",
            "test_a_large_body_in_signed_chunks_is_what_was_signed": "",
            "test_a_part_with_a_wrong_checksum_is_refused": "",
            "test_a_trailer_that_was_announced_has_to_come": "",
            "test_a_trailer_that_was_changed_is_refused": "",
            "test_a_wrong_checksum_is_a_bad_digest": "",
            "test_all_that_is_claimed_of_a_large_body_has_to_hold": "",
            "test_an_unknown_algorithm_is_refused": "",
            "test_checksums_of_parts_are_told": "",
            "test_an_upload_has_a_checksum": "",
            "test_aws_chunked_is_no_encoding_of_the_object": "",
            "test_boto3_checks_what_it_wrote": "",
            "test_chunks_that_are_malformed_are_refused": "0",
            "test_chunks_without_their_length_are_refused": "",
            "test_content_md5_is_checked": "",
            "test_signed_chunks_are_joined": "none",
            "test_signed_chunks_with_a_signed_trailer_are_joined": "",
            "test_two_checksums_are_too_many": "",
            "test_unsigned_chunks_need_no_trailer": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 wants the path of a bucket signed by version 2 as it was sent; boto3 signs it with a slash at its end",
        {
            "test_a_client_that_signs_headers_by_version_2_works": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 believes the last chunk without looking at its signature",
        {
            "test_a_chunk_that_was_changed_is_refused": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 compares ETags of writes with their quotes, knows no lists, no '*', and no conditions of copies, completions and deletions",
        {
            "test_a_completion_has_conditions_on_its_target": "",
            "test_a_condition_that_is_none_of_writes_is_not_implemented": "",
            "test_a_conditional_read": "1 3 4 5 7 8 10 15 18",
            "test_a_copied_part_has_conditions": "",
            "test_a_copy_has_conditions_on_its_source": "1 2 5 6 9",
            "test_a_copy_has_conditions_on_its_target": "",
            "test_a_deletion_of_one_version_never_takes_the_next_one": "",
            "test_deletions_of_many_have_conditions_each": "",
            "test_if_match_deletes_what_was_named_and_only_that": "",
            "test_if_match_of_what_is_not_there_is_no_such_key": "",
            "test_if_match_replaces_what_was_named_and_only_that": "",
            "test_of_racing_deletions_of_one_version_each_is_told_the_truth": "",
            "test_of_racing_replacements_of_one_version_exactly_one_wins": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 writes documents of its own: ETags without quotes or not at all, no Message",
        {
            "test_a_bucket_tells_where_it_was_made": "",
            "test_a_completion_that_comes_again_succeeds": "",
            "test_a_copy_is_the_same_bytes_and_metadata": "",
            "test_a_part_is_copied": "",
            "test_an_error_is_a_document_with_the_id_of_its_request": "",
            "test_another_client_may_complete": "",
            "test_parts_are_joined_in_order_of_their_numbers": "",
            "test_prefix_and_start_are_percent_encoded_where_asked": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 takes or refuses what is malformed in its own way",
        {
            "test_a_body_that_is_no_list_is_malformed": "",
            "test_a_directive_that_is_none_is_refused": "x_amz_tagging_directive",
            "test_a_header_of_amazon_that_was_not_signed_is_refused": "",
            "test_a_life_that_is_none_is_refused": "",
            "test_a_list_needs_a_digest": "",
            "test_a_malformed_configuration_is_refused": "",
            "test_a_name_that_is_none_is_refused": "xn--bucket",
            "test_a_number_of_keys_that_is_none_is_refused": "99999999999999999999 -1",
            "test_a_number_that_no_part_has_is_refused": "0 10001 -1",
            "test_a_page_of_parts_that_is_none_is_refused": "max-parts=-1&",
            "test_a_parameter_that_is_none_is_refused": "",
            "test_a_range_of_a_part_has_to_be_closed_and_there": "bytes=-2-told2 bytes=0--told1 bytes=3-1-told3",
            "test_a_sha256_that_is_none_is_refused": "",
            "test_a_source_that_is_none_is_refused": "5",
            "test_a_token_that_is_none_is_refused": "",
            "test_a_url_of_the_future_is_refused": "",
            "test_a_url_without_all_it_needs_is_refused": "",
            "test_a_wrong_digest_deletes_nothing": "",
            "test_an_upload_that_never_was": "",
            "test_an_upload_that_was_aborted_is_gone": "",
            "test_methods_that_buckets_do_not_know_are_not_allowed": "",
            "test_methods_that_objects_do_not_know_are_not_allowed": "",
            "test_more_than_a_thousand_are_too_many": "",
            "test_parts_have_to_be_named_in_order": "",
            "test_tags_that_are_malformed_are_refused": "3",
            "test_tags_that_may_not_be_are_refused": "aws",
            "test_the_null_version_is_the_only_one": "",
            "test_the_same_tag_twice_is_refused": "",
            "test_too_much_metadata_is_refused": "",
            "test_two_signatures_are_too_many": "",
            "test_versions_go_on_behind_a_key": "",
            "test_what_is_no_http_is_no_failure_of_ours": "3",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 knows no partNumber, no If-Range, and takes malformed ranges for ranges",
        {
            "test_a_part_and_a_range_exclude_each_other": "",
            "test_a_part_is_read_by_its_number": "",
            "test_a_range_counts_if_the_object_is_the_one_known": "",
            "test_a_range_of_nothing_is_unsatisfiable": "bytes=-0",
            "test_an_object_put_whole_is_its_only_part": "",
            "test_what_is_no_range_means_everything": "bytes= bytes=- bytes=0-1,4-5 bytes=5-2 bytes=a-b",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 tells no ETag of a form, keeps fewer fields, takes one without a file, and calls a wrong signature AccessDenied",
        {
            "test_a_form_without_a_file_is_refused": "",
            "test_the_answer_tells_the_etag": "",
            "test_the_secret_of_a_form_is_looked_at": "",
            "test_what_fields_say_is_kept_with_the_file": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 tells a page nothing of rules where it knows nobody",
        {
            "test_what_is_allowed_goes_along_with_refusals_too": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 has no such action or sub-resource; DELETE of some deletes the bucket",
        {
            "test_attributes_are_those_asked_for": "",
            "test_attributes_of_parts_come_in_pages": "",
            "test_attributes_that_are_none_are_refused": "",
            "test_buckets_are_listed_by_prefix": "",
            "test_buckets_are_listed_in_pages": "",
            "test_removing_what_was_never_configured_succeeds": "encryption policy publicAccessBlock tagging website",
            "test_what_is_off_says_so": "accelerate-AccelerateConfiguration",
            "test_what_was_never_configured_is_told_so": "encryption-ServerSideEncryptionConfigurationNotFoundError publicAccessBlock-NoSuchPublicAccessBlockConfiguration replication-ReplicationConfigurationNotFoundError website-NoSuchWebsiteConfiguration",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 ties tags to the metadata directive, keeps none of uploads, and takes '_' in names of metadata for '-'",
        {
            "test_a_copy_may_replace_metadata": "",
            "test_a_copy_may_replace_tags": "",
            "test_metadata_is_kept_by_lower_case_names": "",
            "test_what_was_said_at_the_beginning_is_kept": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 takes a start within a common prefix for one behind it",
        {
            "test_a_listing_begins_behind_a_key": "/-a/1 /-a/2 /-a/b/1 /-c/1",
            "test_any_listing_is_as_defined": "",
        },
    ),
    Difference(
        STORE + RADOSGW,
        "radosgw 16.2 wants all parts named",
        {
            "test_parts_that_are_not_named_are_left_out": "",
        },
    ),
    Difference(
        RADOSGW,
        "16.2 groups no uploads by a delimiter",
        {
            "test_uploads_are_listed_by_key": "",
        },
    ),
)


def reason_of(test: str, case: str, endpoint: str) -> str:
    """Why a test fails at an endpoint; empty when it should not. ``case``: its parameters but the endpoint."""
    for each in DIFFERENCES:
        cases = each.tests.get(test)
        if endpoint in each.endpoints and cases is not None and (not cases or case in cases.split()):
            return each.reason
    return ""
