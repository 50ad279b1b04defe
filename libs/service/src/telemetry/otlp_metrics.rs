//! Metrics of the registry as OTLP has them, under the same names and labels as on the admin port.
//!
//! As the specification has it ("Prometheus and OpenMetrics Compatibility", OpenTelemetry 1.45): a counter is a monotonic
//! cumulative sum, a histogram has counts per bucket instead of running ones. Names keep their suffixes, so that one table
//! of metrics, one dashboard and one set of alerts serve both ways.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{LabelPair, Metric as Series, MetricFamily, MetricType};

/// Series in one request: collectors take 4 MiB by default, and the largest series, a histogram with two long labels, is
/// less than 1 KiB.
const SERIES_MAX: usize = 2_000;

/// Since when values count, and when they were read; both in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// All families as requests of a bounded size, told of `resource`.
pub(super) fn requests(families: &[MetricFamily], resource: &Resource, span: Span) -> Vec<ExportMetricsServiceRequest> {
    let mut requests = Vec::new();
    let (mut metrics, mut held) = (Vec::new(), 0);
    for family in families {
        let mut rest = family.get_metric();
        while !rest.is_empty() {
            let (part, others) = rest.split_at(rest.len().min(SERIES_MAX - held));
            metrics.push(metric(family, part, span));
            (rest, held) = (others, held + part.len());
            if held == SERIES_MAX {
                requests.push(request(std::mem::take(&mut metrics), resource));
                held = 0;
            }
        }
    }
    if !metrics.is_empty() {
        requests.push(request(metrics, resource));
    }
    requests
}

fn request(metrics: Vec<Metric>, resource: &Resource) -> ExportMetricsServiceRequest {
    let scope = InstrumentationScope {
        name: "walser".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    let resource_metrics =
        vec![ResourceMetrics { resource: Some(resource.clone()), scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

fn metric(family: &MetricFamily, series: &[Series], span: Span) -> Metric {
    let numbers = |value: fn(&Series) -> f64| series.iter().map(|one| number(one, value(one), span)).collect();
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: numbers(|one| one.get_counter().get_value()),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: series.iter().map(|one| histogram(one, span)).collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        }),
        // Nothing here makes summaries or untyped series.
        MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
            Data::Gauge(Gauge { data_points: numbers(|one| one.get_gauge().get_value()) })
        }
    };
    Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name()).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The unit that a name ends with, in UCUM as OTLP has it.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    let text = |value: &str| AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    let attribute = |label: &LabelPair| KeyValue {
        key: label.name().to_owned(),
        value: Some(text(label.value())),
        ..KeyValue::default()
    };
    labels.iter().map(attribute).collect()
}

fn number(series: &Series, value: f64, span: Span) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(series.get_label()),
        start_time_unix_nano: span.begin,
        time_unix_nano: span.end,
        value: Some(Number::AsDouble(value)),
        ..NumberDataPoint::default()
    }
}

fn histogram(series: &Series, span: Span) -> HistogramDataPoint {
    let histogram = series.get_histogram();
    let (mut explicit_bounds, mut bucket_counts, mut below) = (Vec::new(), Vec::new(), 0);
    for bucket in histogram.get_bucket() {
        // The last one has no end there, and none here.
        if bucket.upper_bound().is_finite() {
            explicit_bounds.push(bucket.upper_bound());
            bucket_counts.push(bucket.cumulative_count() - below);
            below = bucket.cumulative_count();
        }
    }
    bucket_counts.push(histogram.get_sample_count().saturating_sub(below));
    HistogramDataPoint {
        attributes: attributes(series.get_label()),
        start_time_unix_nano: span.begin,
        time_unix_nano: span.end,
        count: bucket_counts.iter().sum(),
        sum: Some(histogram.get_sample_sum()),
        bucket_counts,
        explicit_bounds,
        ..HistogramDataPoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const SPAN: Span = Span { begin: 1, end: 2 };

    fn all(metrics: &Metrics) -> Vec<Vec<Metric>> {
        let requests = requests(&metrics.families(), &Resource::default(), SPAN);
        let of = |request: ExportMetricsServiceRequest| request.resource_metrics[0].scope_metrics[0].metrics.clone();
        requests.into_iter().map(of).collect()
    }

    #[test]
    fn a_counter_counts_from_the_start_of_the_process_and_a_gauge_does_not() {
        let metrics = Metrics::default();
        metrics.counters("test_bytes_total", "Counts.", &["topic"]).with_label_values(&["orders"]).inc_by(3);
        metrics.gauge("test_depth", "Stands.").set(-2);
        let all = all(&metrics);
        let [bytes, depth] = &all[0][..] else { panic!("{all:?}") };
        let Some(Data::Sum(sum)) = &bytes.data else { panic!("{bytes:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == AggregationTemporality::Cumulative as i32);
        let point = &sum.data_points[0];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
        assert_eq!((point.attributes[0].key.as_str(), &point.value), ("topic", &Some(Number::AsDouble(3.0))));
        assert_eq!((bytes.unit.as_str(), bytes.description.as_str(), depth.unit.as_str()), ("By", "Counts.", ""));
        let Some(Data::Gauge(gauge)) = &depth.data else { panic!("{depth:?}") };
        assert_eq!(gauge.data_points[0].value, Some(Number::AsDouble(-2.0)));
    }

    #[test]
    fn buckets_of_a_histogram_count_what_is_in_them_alone() {
        let metrics = Metrics::default();
        let latency = metrics.latency("test_seconds", "A test.");
        for seconds in [10e-6, 0.3, 0.3, 61.0] {
            latency.observe(seconds);
        }
        let all = all(&metrics);
        let Some(Data::Histogram(histogram)) = &all[0][0].data else { panic!("{all:?}") };
        let point = &histogram.data_points[0];
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        let half = point.explicit_bounds.iter().position(|bound| *bound == 0.5).unwrap();
        let expected = |at| if at == half { 2 } else { u64::from(at == 0 || at == point.explicit_bounds.len()) };
        let counts: Vec<_> = (0..point.bucket_counts.len()).map(expected).collect();
        assert_eq!((&point.bucket_counts, point.count, all[0][0].unit.as_str()), (&counts, 4, "s"));
    }

    #[test]
    fn many_series_go_out_in_several_requests_and_none_twice() {
        for series in [1, SERIES_MAX, SERIES_MAX + 1, 10_000] {
            let metrics = Metrics::default();
            let counters = metrics.counters("test_total", "Counts.", &["topic"]);
            for topic in 0..series {
                counters.with_label_values(&[&topic.to_string()]).inc();
            }
            metrics.gauge("tests", "Stands.");
            let requests = all(&metrics);
            let points = |metric: &Metric| match &metric.data {
                Some(Data::Sum(sum)) => sum.data_points.len(),
                Some(Data::Gauge(gauge)) => gauge.data_points.len(),
                other => panic!("{other:?}"),
            };
            let sizes: Vec<usize> = requests.iter().map(|metrics| metrics.iter().map(points).sum()).collect();
            assert_eq!((sizes.iter().sum::<usize>(), sizes.len()), (series + 1, (series + 1).div_ceil(SERIES_MAX)));
            assert!(sizes.iter().all(|size| *size <= SERIES_MAX), "{sizes:?}");
        }
    }
}
