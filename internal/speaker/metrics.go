package speaker

import (
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

type metrics struct {
	addresses *prometheus.GaugeVec
	changes   *prometheus.CounterVec
	reports   *prometheus.CounterVec
	conflicts *prometheus.CounterVec
	named     map[string]bool // the values of the label mac of conflicts
	rivals    prometheus.Counter
	wins      prometheus.Counter
	withheld  prometheus.Gauge
	defences  prometheus.Counter
	takeovers prometheus.Histogram
	passes    prometheus.Histogram
}

// A change is what happened between two passes to an address that this node
// owns now or did before.
type change string

const (
	// acquired: nobody owned it.
	acquired change = "acquired"
	// tookOver: its owner is gone.
	tookOver change = "took-over"
	// received: its owner handed it over.
	received change = "received"
	// handedOver: another node owns it now.
	handedOver change = "handed-over"
	// dropped: nobody does.
	dropped change = "dropped"
)

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "belfry", Subsystem: "speaker", Name: name, Help: help})
	}
	m := &metrics{
		addresses: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "addresses",
			Help: "Addresses in use, by what this node does about them.",
		}, []string{"role"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "owner_changes_total",
			Help: "Addresses that this node came to own or ceased to, by how.",
		}, []string{"change"}),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "reports_total",
			Help: "Writes of the condition Announced, by result.",
		}, []string{"result"}),
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "conflicts_total",
			Help: "Frames by which stations that are no speakers of ours claim an address of ours, by hardware address.",
		}, []string{"mac"}),
		named: map[string]bool{},
		withheld: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "addresses_withheld",
			Help: "Addresses that this node is to announce and does not, because a stranger uses them.",
		}),
		defences: counter("defences_total", "Addresses claimed anew because a stranger claimed them."),
		rivals:   counter("rival_claims_total", "Times that another speaker was heard to claim an address that this node owns."),
		wins:     counter("contests_won_total", "Addresses that another speaker claimed too and has let go of."),
		takeovers: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "takeover_seconds",
			Help:    "Time from the first doubt about an owner's life until this node answers for its address.",
			Buckets: []float64{.001, .005, .01, .025, .05, .075, .1, .15, .25, .5, 1, 1.5, 2.5},
		}),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "pass_seconds",
			Help:    "Time to decide on the whole world and to install the result.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5},
		}),
	}
	for _, r := range []election.Role{election.Retiring, election.Owner} {
		m.addresses.WithLabelValues(r.String())
	}
	for _, c := range []change{acquired, tookOver, received, handedOver, dropped} {
		m.changes.WithLabelValues(string(c))
	}
	for _, r := range []string{"written", "failed"} {
		m.reports.WithLabelValues(r)
	}
	if reg != nil {
		reg.MustRegister(m.addresses, m.changes, m.reports, m.conflicts, m.rivals, m.wins, m.withheld, m.defences, m.takeovers, m.passes)
	}
	return m
}

// others stands for the strangers that came after the first namedMost, which have
// a series each: there are as many hardware addresses as anybody cares to forge.
const (
	namedMost = 16
	others    = "others"
)

// conflict counts frames by which a stranger claims an address.
func (m *metrics) conflict(mac lb.MAC, frames int) {
	name := mac.String()
	switch {
	case m.named[name]:
	case len(m.named) < namedMost:
		m.named[name] = true
	default:
		name = others
	}
	m.conflicts.WithLabelValues(name).Add(float64(frames))
}

// count takes the gauges from an intent and the counters from what became of
// the one before it.
func (m *metrics) count(before, after announce.Intent, members []election.Member, self string, held map[netip.Addr]layer2.Heard, silence func(node string) time.Duration) {
	withheld := 0
	for _, by := range held {
		if by != (layer2.Heard{}) {
			withheld++
		}
	}
	m.withheld.Set(float64(withheld))
	alive := map[string]bool{}
	for _, member := range members {
		alive[member.Node] = true
	}
	roles := [3]int{}
	old := before.Decisions
	for _, v := range after.Decisions {
		roles[v.Role]++
		for len(old) > 0 && old[0].Address.Less(v.Address) {
			m.changed(old[0].Owner, "", alive, self, silence)
			old = old[1:]
		}
		was := ""
		if len(old) > 0 && old[0].Address == v.Address {
			was = old[0].Owner
			old = old[1:]
		}
		m.changed(was, v.Owner, alive, self, silence)
	}
	for _, v := range old {
		m.changed(v.Owner, "", alive, self, silence)
	}
	for _, r := range []election.Role{election.Retiring, election.Owner} {
		m.addresses.WithLabelValues(r.String()).Set(float64(roles[r]))
	}
}

func (m *metrics) changed(was, is string, alive map[string]bool, self string, silence func(string) time.Duration) {
	c := change("")
	switch {
	case was == is || was != self && is != self:
		return
	case is == self && was == "":
		c = acquired
	case is == self && alive[was]:
		c = received
	case is == self:
		c = tookOver
		m.takeovers.Observe(silence(was).Seconds())
	case is == "":
		c = dropped
	default:
		c = handedOver
	}
	m.changes.WithLabelValues(string(c)).Inc()
}
