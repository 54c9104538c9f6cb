package speaker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

type metrics struct {
	addresses *prometheus.GaugeVec
	changes   *prometheus.CounterVec
	conflicts *prometheus.CounterVec
	named     map[string]bool // the values of the label mac of conflicts
	rivals    prometheus.Counter
	wins      prometheus.Counter
	withheld  prometheus.Gauge
	defenses  prometheus.Counter
	proofs    *prometheus.GaugeVec
	takeovers prometheus.Histogram
	passes    prometheus.Histogram
	panics    prometheus.Counter
}

// change is how owner_changes_total names a transition.
func change(t core.Transition) string {
	switch {
	case t.Kind == core.Acquired && t.Cause == core.OwnerLost:
		return "took-over"
	case t.Kind == core.Acquired && t.Cause == core.Handover:
		return "received"
	case t.Kind == core.Acquired:
		return "acquired"
	case t.Kind == core.HandedOver:
		return "handed-over"
	case t.Kind == core.Withheld:
		return "withheld"
	default:
		return "dropped"
	}
}

var changes = [...]string{"acquired", "took-over", "received", "handed-over", "dropped", "withheld"}

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
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "conflicts_total",
			Help: "Frames by which stations that are no speakers of ours claim an address of ours, by hardware address.",
		}, []string{"mac"}),
		named: map[string]bool{},
		withheld: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "addresses_withheld",
			Help: "Addresses that this node is to announce and does not, because a foreign station uses them.",
		}),
		proofs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "belfry", Subsystem: "speaker", Name: "proofs",
			Help: "Addresses that this node asks its segment for, by what the segment answers.",
		}, []string{"verdict"}),
		defenses: counter("defenses_total", "Addresses claimed anew because a foreign station claimed them."),
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
		panics: counter("panics_total", "Decisions that failed; the Services over which they did are left as they were."),
	}
	for _, r := range []election.Role{election.Retiring, election.Owner} {
		m.addresses.WithLabelValues(r.String())
	}
	for _, k := range proof.Kinds {
		m.proofs.WithLabelValues(k.String())
	}
	for _, c := range changes {
		m.changes.WithLabelValues(c)
	}
	if reg != nil {
		reg.MustRegister(m.addresses, m.changes, m.conflicts, m.rivals, m.wins, m.withheld, m.defenses, m.proofs, m.takeovers, m.passes, m.panics)
	}
	return m
}

// others stands for the foreign stations that came after the first namedMost, which have
// a series each: there are as many hardware addresses as anybody cares to forge.
const (
	namedMost = 16
	others    = "others"
)

// conflict counts frames by which a foreign station claims an address.
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

// count takes from Effects the gauges and what to add to the counters.
func (m *metrics) count(e core.Effects) {
	for _, t := range e.Transitions {
		m.changes.WithLabelValues(change(t)).Inc()
		if t.Kind == core.Acquired && t.Cause == core.OwnerLost {
			m.takeovers.Observe(t.Silence.Seconds())
		}
	}
	for _, f := range e.Frames {
		m.conflict(f.MAC, f.N)
	}
	m.rivals.Add(float64(e.Rivals))
	m.wins.Add(float64(len(e.Won)))
	m.defenses.Add(float64(len(e.Defend)))
	if e.View == nil {
		return
	}
	withheld := 0
	for _, by := range e.View.Withheld {
		if by != (layer2.Heard{}) {
			withheld++
		}
	}
	m.withheld.Set(float64(withheld))
	results := map[proof.Kind]int{}
	for _, v := range e.View.Proofs {
		results[v.Kind]++
	}
	for _, k := range proof.Kinds {
		m.proofs.WithLabelValues(k.String()).Set(float64(results[k]))
	}
	roles := map[election.Role]int{}
	for i := range e.View.Intent.Decisions {
		roles[e.View.Intent.Decisions[i].Role]++
	}
	for _, r := range []election.Role{election.Retiring, election.Owner} {
		m.addresses.WithLabelValues(r.String()).Set(float64(roles[r]))
	}
}
