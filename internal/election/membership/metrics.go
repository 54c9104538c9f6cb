package membership

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/election"
)

type metrics struct {
	members    *prometheus.GaugeVec
	expected   prometheus.Gauge
	dropped    *prometheus.CounterVec
	suspicions *prometheus.CounterVec
	doubt      prometheus.Histogram
	exchanges  *prometheus.CounterVec
	cleared    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		members: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "belfry_gossip_members",
			Help: "Living members as this speaker sees them, itself included.",
		}, []string{"state"}),
		expected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "belfry_gossip_members_expected",
			Help: "Nodes with an address at which a speaker should be, this one included.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "belfry_gossip_dropped_total",
			Help: "Packets, streams and records dropped: foreign (not encrypted with our key, or a stream from no Node's address), malformed, overflow (more than is taken at a time).",
		}, []string{"reason"}),
		suspicions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "belfry_gossip_suspicions_total",
			Help: "Members that gossip lost, by how that ended: recovered, or gone because it was silent, refused, slow, left.",
		}, []string{"end"}),
		doubt: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "belfry_gossip_doubt_seconds",
			Help:    "Time from the loss of a member by gossip until it recovered or was given up.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, 1, 1.5, 2.5},
		}),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "belfry_gossip_exchanges_total",
			Help: "Exchanges of state with missing peers, by result.",
		}, []string{"result"}),
	}
	m.cleared = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "belfry_detection_cleared_total",
		Help: "Members that a session on the segment missed, here or at another speaker, and that turned out to live when they were asked.",
	})
	if reg != nil {
		reg.MustRegister(m.members, m.expected, m.dropped, m.suspicions, m.doubt, m.exchanges, m.cleared)
	}
	for _, r := range []string{dropForeign, dropMalformed, dropOverflow} {
		m.dropped.WithLabelValues(r)
	}
	for c := election.GoneSilent; c <= election.GoneLeft; c++ {
		m.suspicions.WithLabelValues(c.String())
	}
	m.suspicions.WithLabelValues(endRecovered)
	return m
}

const endRecovered = "recovered"

func (m *metrics) count(list []election.Member) {
	var n [election.Gone]int
	for _, l := range list {
		n[l.State]++
	}
	for s, c := range n {
		m.members.WithLabelValues(election.State(s).String()).Set(float64(c))
	}
}

func (m *metrics) ended(end string, after time.Duration) {
	m.suspicions.WithLabelValues(end).Inc()
	m.doubt.Observe(after.Seconds())
}
