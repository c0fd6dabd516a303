"""The paper's and later models' published figures, one function a table.

The tables are in ``book/data/published``; its README and `sources` say where each number is from.
Metrics are fractions unless a docstring says percent; GMAC = 1e9 multiply-accumulates of one
forward pass through both towers for one image-text pair; compute = GMACs a pair x samples seen.
Every table also has the column ``source``, a key (or keys joined by ``+``) of `sources`.
"""

from pathlib import Path

import pandas as pd

from cliplib import InputError

FOLDER = Path(__file__).resolve().parents[1] / "book" / "data" / "published"
FIGURE1_DATASETS = ("imagenet1k", "imagenet_robustness", "mscoco_captions", "flickr30k")
_AGGREGATES = ("imagenet_robustness", "vtab", "vtab+")


def _table(name: str) -> pd.DataFrame:
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        raise InputError(
            f"the published table {path} is missing: run from a full clone of the project, "
            "installed with `pip install -e .`"
        )
    return pd.read_csv(path)


def sources() -> pd.DataFrame:
    """Where the numbers come from, by source key: title, authors, where, commit, licence."""
    return _table("sources")


def credit(source: str) -> str:
    """One line that names a source, for the foot of a figure. InputError for an unknown key."""
    table = sources().set_index("source")
    if source not in table.index:
        raise InputError(f"unknown source '{source}'; known: {', '.join(table.index)}")
    row = table.loc[source]
    commit = f", commit {row['commit'][:7]}" if isinstance(row["commit"], str) else ""
    return f"{row['authors']}, {row['title']}, {row['where']}{commit} ({row['licence']})"


# The study's runs and what they scored


def pretraining_runs() -> pd.DataFrame:
    """The 29 OpenCLIP runs and 3 OpenAI references (paper Table 17, v1 numbering).

    Columns: run_id, family (OpenCLIP|OpenAI), arch, data, data_pairs_nominal,
    samples_seen_label (3B|13B|34B, nominal), virtual_epoch_samples, virtual_epochs,
    samples_seen_training (their product), samples_seen_evaltable, samples_seen_rel_diff,
    lr, warmup_steps, local_batch, gpus, global_batch, steps, passes_over_data,
    samples_per_s, samples_per_s_per_gpu, hours, gpu_hours, energy_mwh_at_350w (MWh),
    gmacs_per_sample (GMAC), gmacs_total_evaltable (GMAC; the paper's fits use this),
    gmacs_total_training (GMAC), train_tflops_per_gpu (6 x GMAC x rate), checkpoint.
    Training settings of the OpenAI rows are empty: they were not published in this form.
    """
    return _table("pretraining_runs")


def zero_shot() -> pd.DataFrame:
    """Zero-shot results, long: run_id, dataset, is_aggregate (0|1), metric, value (fraction).

    Metrics: top1, top5, mean_per_class_recall, mean_average_precision,
    image_retrieval_recall_at_5, text_retrieval_recall_at_5.
    """
    return _table("zero_shot")


def downstream_datasets() -> pd.DataFrame:
    """The 38 data sets: dataset, kind, membership of the four averages (0|1), fit_metric.

    Also group (natural|specialized|structured|retrieval) and n_prompt_templates.
    """
    return _table("downstream_datasets")


def learning_curves() -> pd.DataFrame:
    """ImageNet zero-shot while training: run_id, virtual epoch, samples_seen, step, top1, top5."""
    return _table("learning_curves")


def figure1() -> pd.DataFrame:
    """The 4 x 32 points of the paper's Figure 1, ready for a fit.

    Columns: dataset, metric, run_id, family, arch, data, samples_seen_label, samples_seen,
    gmacs_per_sample (GMAC), compute (GMAC), error (fraction, 1 - metric).
    """
    return _table("figure1")


def extra_control_runs() -> pd.DataFrame:
    """Seven models outside the 29, two of them batch and learning-rate controls; long.

    Columns: model_id, arch, data, samples_seen, gmacs_total (GMAC), dataset, metric, value.
    """
    return _table("extra_control_runs")


def architectures() -> pd.DataFrame:
    """28 architectures: arch, used_for_pretraining, used_in_predictions, shape of both towers.

    gmacs_per_sample, image_gmacs, text_gmacs in GMAC; params_m, image_params_m, text_params_m and
    activations_m in millions; openclip_gflops in GFLOP and its ratio to 2 x gmacs_per_sample.
    ResNets write vision_layers as blocks a stage (3-4-6-3) and have no patch_px.
    """
    return _table("architectures")


# Linear probes and fine-tuning


def probe_models() -> pd.DataFrame:
    """The 12 probed checkpoints.

    Columns: model_id, arch, pretrained_tag, data, samples_seen_label, samples_seen,
    gmacs_total (GMAC), family, matching_run_id (empty: no such run among the 29),
    in_scaling_grid (0|1).
    """
    return _table("probe_models")


def linear_probe_grid() -> pd.DataFrame:
    """Every probe setting tried, nine for each checkpoint, data set and number of shots.

    Columns: model_id, dataset, shots (10|25|full), lr, epochs, batch, top1, top5,
    mean_per_class_recall.
    """
    return _table("linear_probe_grid")


def linear_probe() -> pd.DataFrame:
    """Full-data probes, the best of nine settings *by test score*, as published.

    Columns: model_id, dataset, shots, top1, top5, mean_per_class_recall, lr, epochs, n_configs,
    top1_median_config, top1_worst_config, best_on_grid_edge (0|1).
    """
    return _table("linear_probe")


def few_shot() -> pd.DataFrame:
    """As `linear_probe`, with 10 and 25 images a class."""
    return _table("few_shot")


def vtab_probe() -> pd.DataFrame:
    """As `linear_probe`, on 19 VTAB sets and their mean (with CIFAR-10, without SUN397)."""
    return _table("vtab_probe")


def finetuned() -> pd.DataFrame:
    """Image towers fine-tuned on ImageNet, **in percent**.

    Columns: model, img_px, trunk, is_vit_clip, scale, pretrain, extra_ft_in12k (0|1), in1k_top1,
    in1k_top5, real_top1, inv2_top1, ina_top1, inr_top1, sketch_top1, robust4_mean,
    params_m (millions), infer_gmacs (GMAC, image tower), crop_pct.
    """
    return _table("finetuned")


def finetune_hparams() -> pd.DataFrame:
    """Settings of five such fine-tunings; an empty cell was not published."""
    return _table("finetune_hparams")


# Later models, and what the paper prints


def later_models() -> pd.DataFrame:
    """121 checkpoints of OpenCLIP's results pages, most of them newer than the study.

    Columns: model, pretrained_tag, family, data, outside_paper (0|1), samples_seen and its source,
    gmacs_per_sample (GMAC) and its source, gmacs_total (GMAC), compute_comparable (0 where weights
    were averaged, fine-tuned, distilled, initialised, masked, or samples seen are not confirmed),
    in1k_top1 and robustness top1, robust5_mean, COCO and Flickr recalls, avg38 (fractions),
    params_m (millions), openclip_gflops (GFLOP), note.
    """
    return _table("later_models")


def paper_alphas() -> pd.DataFrame:
    """The eight exponents the paper prints (two decimals) and their recomputed values."""
    return _table("paper_alphas")


def paper_predictions() -> pd.DataFrame:
    """Predictions the paper prints, **in percent**, and their recomputed values.

    Columns: dataset, arch, samples_label, paper_pct, where (section), recomputed_pct,
    diff_pp (points, recomputed - printed).
    """
    return _table("paper_predictions")


def printed() -> pd.DataFrame:
    """Numbers the paper or its notebook prints: id, where, what, printed (text), unit, relation.

    Also rounding (half of the last printed digit) and source; see `cliplib.paper.printed`.
    """
    return _table("printed").astype({"printed": str})


def paper_errors() -> pd.DataFrame:
    """Mean absolute in-sample error of the law, in points: dataset, mae_points, cells."""
    return _table("paper_errors")


# Ready for a fit


def errors(dataset: str, metric: str | None = None) -> pd.DataFrame:
    """Compute and error of the 32 runs on one data set, ready for a fit.

    ``dataset`` is a name in `downstream_datasets`, or imagenet_robustness, vtab or vtab+;
    ``metric`` one of `zero_shot`, by default the one that the paper fits.
    Columns: run_id, family, arch, data, samples_seen_label, samples_seen,
    gmacs_per_sample (GMAC), compute (GMAC, gmacs_total_evaltable), error (fraction).
    InputError for an unknown data set, or a metric that it was not scored with.
    """
    metric = metric or _fit_metric(dataset)
    scores = zero_shot().query("dataset == @dataset")
    known = sorted(scores["metric"].unique())
    if metric not in known:
        raise InputError(f"no metric '{metric}' for {dataset}; published: {', '.join(known)}")
    scores = scores[scores["metric"] == metric]
    runs = pretraining_runs().merge(scores, on="run_id", validate="1:1", suffixes=("", "_score"))
    runs = runs.rename(
        columns={"gmacs_total_evaltable": "compute", "samples_seen_evaltable": "samples_seen"}
    )
    runs["error"] = 1 - runs["value"]
    kept = ["run_id", "family", "arch", "data", "samples_seen_label", "samples_seen"]
    return runs[[*kept, "gmacs_per_sample", "compute", "error"]]


def openclip_runs(dataset: str, metric: str | None = None) -> pd.DataFrame:
    """As `errors`, the 29 OpenCLIP runs only."""
    return errors(dataset, metric).query("family == 'OpenCLIP'").reset_index(drop=True)


def _fit_metric(dataset: str) -> str:
    if dataset in _AGGREGATES:
        return "top1"
    table = downstream_datasets().set_index("dataset")["fit_metric"]
    if dataset not in table.index:
        names = ", ".join([*table.index, *_AGGREGATES])
        raise InputError(f"unknown data set '{dataset}'; known: {names}")
    return str(table[dataset])
