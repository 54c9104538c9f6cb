package link

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

type metrics struct {
	requests, replies, unsent, malformed, gratuitous, heard *prometheus.CounterVec
	unheard, listings                                       prometheus.Counter
	addresses                                               *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "belfry", Subsystem: "layer2", Name: name, Help: help}, labels)
	}
	single := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "belfry", Subsystem: "layer2", Name: name, Help: help})
	}
	m := &metrics{
		requests:   counter("requests_total", "ARP requests and Neighbor Solicitations that passed the filter, by what became of them.", "interface", "family", "verdict"),
		replies:    counter("replies_total", "Replies sent.", "interface", "family"),
		unsent:     counter("unsent_total", "Frames that the kernel did not take, and answers that were not given because the process had been stopped.", "interface", "family"),
		malformed:  counter("malformed_total", "Frames dropped because they break their protocol, by the first rule they break.", "interface", "family", "reason"),
		gratuitous: counter("gratuitous_total", "Announcements sent without being asked.", "interface", "form"),
		heard:      counter("heard_total", "Frames by which others use an address that is watched.", "interface", "family", "kind"),
		unheard:    single("unheard_total", "Frames by which others use a watched address that were dropped because they were not read in time."),
		listings:   single("interface_listings_total", "How often interfaces were listed anew after the kernel reported a change."),
		addresses: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "belfry", Subsystem: "layer2", Name: "addresses",
			Help: "Addresses that this node answers for.",
		}, []string{"interface", "family"}),
	}
	if reg == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.requests, m.replies, m.unsent, m.malformed, m.gratuitous, m.heard, m.unheard, m.listings, m.addresses} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// counters are the metrics of one interface and family, bound once so that a
// frame costs an addition and no search for labels.
type counters struct {
	requests        [len(layer2.Verdicts)]prometheus.Counter
	heard           [len(layer2.HeardKinds)]prometheus.Counter
	malformed       [len(malformations)]prometheus.Counter
	replies, unsent prometheus.Counter
}

func (m *metrics) of(name string, family lb.Family) *counters {
	c := &counters{
		replies: m.replies.WithLabelValues(name, family.String()),
		unsent:  m.unsent.WithLabelValues(name, family.String()),
	}
	for _, v := range layer2.Verdicts {
		c.requests[v] = m.requests.WithLabelValues(name, family.String(), v.String())
	}
	for _, k := range layer2.HeardKinds {
		c.heard[k] = m.heard.WithLabelValues(name, family.String(), k.String())
	}
	for i := range malformations {
		if r := malformation(i); r != wellFormed {
			c.malformed[i] = m.malformed.WithLabelValues(name, family.String(), r.String())
		}
	}
	return c
}

// forget drops everything about an interface that is gone.
func (m *metrics) forget(name string) {
	for _, v := range []*prometheus.MetricVec{
		m.requests.MetricVec, m.replies.MetricVec, m.unsent.MetricVec, m.malformed.MetricVec,
		m.gratuitous.MetricVec, m.heard.MetricVec, m.addresses.MetricVec,
	} {
		v.DeletePartialMatch(prometheus.Labels{"interface": name})
	}
}
