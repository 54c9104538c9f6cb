package controller

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/report"
)

// Metrics are what the loop measures. Gauges are set from its decisions, so
// they cannot drift from them.
type Metrics struct {
	leader  prometheus.Gauge
	pools   *prometheus.GaugeVec
	waiting *prometheus.GaugeVec
	// told are the Services by their condition Announced, addresses by what becomes of
	// them.
	told      *prometheus.GaugeVec
	addresses *prometheus.GaugeVec
	objects   *prometheus.GaugeVec
	speakers  *prometheus.GaugeVec
	latency   prometheus.Histogram
	writes    *prometheus.CounterVec
	passes    prometheus.Histogram
	dropped   prometheus.CounterFunc
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
		told: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "belfry_services_announced",
			Help: "Services that hold an address, by their condition belfry.dev/Announced and its reason.",
		}, []string{"announced", "reason"}),
		addresses: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "belfry_addresses",
			Help: "Addresses that Services hold, by protocol that is to announce them and what becomes of it. The protocol is none for those that no advertisement selects.",
		}, []string{"protocol", "state"}),
		objects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "belfry_objects",
			Help: "Objects that configure Belfry, by kind and the reason of their condition Accepted.",
		}, []string{"kind", "reason"}),
		speakers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "belfry_speakers",
			Help: "Nodes by what is known of their speaker: reporting what it does, lost (it reported, and others do not hear it any more), unknown (others hear it, and it does not report), absent.",
		}, []string{"state"}),
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
	r.MustRegister(m.leader, m.pools, m.waiting, m.told, m.addresses, m.objects, m.speakers, m.latency, m.writes, m.passes, m.dropped)
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

// An announcing is by what a Service that holds an address is counted; the zero value
// stands for none.
type announcing struct {
	announced bool
	reason    string
}

// untold is the reason of a Service that has not been told anything yet.
const untold = "Untold"

// tell counts a Service by another announcing than before.
func (m *Metrics) tell(was, is announcing) {
	if was == is {
		return
	}
	for a, by := range map[announcing]float64{was: -1, is: +1} {
		if a != (announcing{}) {
			m.told.WithLabelValues(strconv.FormatBool(a.announced), a.reason).Add(by)
		}
	}
}

// Protocols, as metrics name them.
const (
	protocolLayer2 = "layer2"
	protocolBGP    = "bgp"
	protocolNone   = "none"
)

// stand counts an address, or no longer.
func (m *Metrics) stand(s report.AddressStanding, by float64) {
	if s.Layer2 == report.Unasked && s.BGP == report.Unasked {
		m.addresses.WithLabelValues(protocolNone, report.StandingUnannounced.String()).Add(by)
		return
	}
	for protocol, s := range map[string]report.Standing{protocolLayer2: s.Layer2, protocolBGP: s.BGP} {
		if s != report.Unasked {
			m.addresses.WithLabelValues(protocol, s.String()).Add(by)
		}
	}
}

// object counts an object by another reason than before; an empty one stands for no
// object.
func (m *Metrics) object(kind string, was, is v1beta1.Reason) {
	if was == is {
		return
	}
	for reason, by := range map[v1beta1.Reason]float64{was: -1, is: +1} {
		if reason != "" {
			m.objects.WithLabelValues(kind, string(reason)).Add(by)
		}
	}
}

// States of a speaker, as metrics name them.
const (
	speakerReporting = "reporting"
	speakerLost      = "lost"
	speakerUnknown   = "unknown"
	speakerAbsent    = "absent"
)

// hear counts the speakers of nodes by what a View knows of them.
func (m *Metrics) hear(v *report.View, nodes []lb.Node) {
	n := map[string]int{speakerReporting: 0, speakerLost: 0, speakerUnknown: 0, speakerAbsent: 0}
	for i := range nodes {
		switch node := nodes[i].Name; {
		case v.Unknown(node):
			n[speakerUnknown]++
		case v.Believes(node):
			n[speakerReporting]++
		case v.Reported(node):
			n[speakerLost]++
		default:
			n[speakerAbsent]++
		}
	}
	for state, n := range n {
		m.speakers.WithLabelValues(state).Set(float64(n))
	}
}

// clear forgets what a term as leader has shown: the present leader shows it.
func (m *Metrics) clear() {
	for _, v := range []*prometheus.GaugeVec{m.pools, m.waiting, m.told, m.addresses, m.objects, m.speakers} {
		v.Reset()
	}
}

// reset shows what a term as leader begins with.
func (m *Metrics) reset() {
	m.clear()
	for _, s := range report.Standings {
		m.addresses.WithLabelValues(protocolLayer2, s.String())
		m.addresses.WithLabelValues(protocolBGP, s.String())
	}
	m.addresses.WithLabelValues(protocolNone, report.StandingUnannounced.String())
	for _, kind := range append([]string{kindOfPools}, kube.StatusKinds...) {
		m.objects.WithLabelValues(kind, string(v1beta1.ReasonAccepted))
	}
	m.told.WithLabelValues("true", "Announced")
	for _, r := range allocator.Reasons() {
		m.count(standing{r.String(), r.Waiting()}, 0)
	}
	m.count(standing{Contested, false}, 0)
}
