"""Answers of many megabytes that nobody reads."""

from attacker import leave_answers_unread


def test_answers_that_nobody_reads_are_given_up_while_others_are_served(
    small_files, serving, processes_below, pngs, tmp_path
):
    with serving(small_files, tmp_path, TOOLKIT_WORKERS="1") as (process, url, _):
        leave_answers_unread(url, small_files.name, processes_below(process.pid)[-1], pngs[0])
