package controller

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
)

// Metrics are what the loop measures. Gauges are set from its decisions, so
// they cannot drift from them.
type Metrics struct {
	leader  prometheus.Gauge
	pools   *prometheus.GaugeVec
	waiting *prometheus.GaugeVec
	latency prometheus.Histogram
	writes  *prometheus.CounterVec
	passes  prometheus.Histogram
	dropped prometheus.CounterFunc
}

// The states of a pool's addresses, as metrics name them.
var addressStates = [...]string{"total", "assigned", "available", "reserved", "orphaned"}

// NewMetrics makes the metrics and registers them.
func NewMetrics(r prometheus.Registerer, events *kube.Recorder) *Metrics {
	m := &Metrics{
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "belfry_controller_leader",
			Help: "1 while this replica is the leader, the one that allocates.",
		}),
		pools: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "belfry_pool_addresses",
			Help: "Addresses of a pool by family and state. orphaned are in use though the pool covers them no more; they are not part of total.",
		}, []string{"pool", "family", "state"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "belfry_services",
			Help: "Services by the reason of their condition belfry.dev/Allocated.",
		}, []string{"reason", "waiting"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "belfry_allocation_seconds",
			Help:    "Time from the first sight of a Service until its addresses are in its status.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "belfry_controller_writes_total",
			Help: "Writes to the API server by kind of object and outcome.",
		}, []string{"kind", "outcome"}),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "belfry_controller_pass_seconds",
			Help:    "Time the loop takes to look at what has changed and decide.",
			Buckets: prometheus.ExponentialBuckets(0.00001, 4, 10),
		}),
		dropped: prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "belfry_controller_events_dropped_total",
			Help: "Events that could not be written.",
		}, func() float64 { return float64(events.Dropped()) }),
	}
	for _, kind := range jobKinds {
		for _, o := range kube.Outcomes() {
			m.writes.WithLabelValues(kind, o.String())
		}
	}
	r.MustRegister(m.leader, m.pools, m.waiting, m.latency, m.writes, m.passes, m.dropped)
	return m
}

// pool sets the gauges of one pool.
func (m *Metrics) pool(d allocator.PoolDecision) {
	for f, c := range map[lb.Family]allocator.Count{lb.IPv4: d.V4, lb.IPv6: d.V6} {
		for i, n := range []uint64{c.Total, c.Assigned, c.Available, c.Reserved, c.Orphans} {
			m.pools.WithLabelValues(d.Pool, f.String(), addressStates[i]).Set(float64(n))
		}
	}
}

// forget removes the gauges of a pool that is gone.
func (m *Metrics) forget(pool string) {
	m.pools.DeletePartialMatch(prometheus.Labels{"pool": pool})
}

// A standing is by what a Service is counted.
type standing struct {
	reason  string
	waiting bool
}

// count counts a Service, or no longer.
func (m *Metrics) count(s standing, by float64) {
	m.waiting.WithLabelValues(s.reason, strconv.FormatBool(s.waiting)).Add(by)
}

// reset forgets what a term as leader has shown.
func (m *Metrics) reset() {
	m.pools.Reset()
	m.waiting.Reset()
	for _, r := range allocator.Reasons() {
		m.count(standing{r.String(), r.Waiting()}, 0)
	}
	m.count(standing{Contested, false}, 0)
}
