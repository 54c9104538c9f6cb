package speaker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/bgp"
)

// advertiserMetrics are what there is to measure of BGP. What concerns a session is
// read from it at each scrape, so that it cannot drift, and a peer that is
// gone leaves nothing behind.
type advertiserMetrics struct {
	advertiser *advertiser
	panics     prometheus.Counter
	passes     prometheus.Histogram

	up, state, uptime, messages, updates, malformed, prefixes, established, flaps, lastError, bfd *prometheus.Desc
}

func newAdvertiserMetrics(r *advertiser, reg prometheus.Registerer) *advertiserMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("belfry_bgp_"+name, help, append([]string{"peer"}, labels...), nil)
	}
	m := &advertiserMetrics{
		advertiser: r,
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "belfry_bgp_panics_total", Help: "Decisions over BGP that failed; what was decided before stays in force.",
		}),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "belfry_bgp_pass_seconds", Help: "Time to decide on all routes of all peers.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5},
		}),
		up:          desc("session_up", "1 while the session is established."),
		state:       desc("session_state", "1 for the state that the session is in.", "state"),
		uptime:      desc("session_uptime_seconds", "How long the session has been established; 0 while it is not."),
		messages:    desc("messages_total", "Messages of the session, by direction.", "direction"),
		updates:     desc("updates_total", "UPDATEs among them.", "direction"),
		malformed:   desc("malformed_updates_total", "UPDATEs from the router that are not well formed."),
		prefixes:    desc("prefixes", "Prefixes: wanted are those that the router should have, sent those that it was told, unsendable those without a next hop and those that the session has no words for, received those that it announces, which are counted only.", "kind"),
		established: desc("sessions_established_total", "Times that the session was established."),
		flaps:       desc("session_flaps_total", "Times that the session was lost unasked."),
		lastError:   desc("session_last_error", "1 for the cause of why the session is down, or fell last.", "cause"),
		bfd:         desc("bfd_up", "1 while BFD says that the router can be reached; absent without BFD."),
	}
	if reg != nil && r.peering != nil {
		reg.MustRegister(m.panics, m.passes, m)
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *advertiserMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.up, m.state, m.uptime, m.messages, m.updates, m.malformed, m.prefixes, m.established, m.flaps, m.lastError, m.bfd} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *advertiserMetrics) Collect(out chan<- prometheus.Metric) {
	for _, v := range m.advertiser.sessions() {
		metric := func(d *prometheus.Desc, t prometheus.ValueType, value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, t, value, append([]string{v.Peer}, labels...)...)
		}
		up, uptime := 0.0, 0.0
		if v.State == bgp.Established {
			up, uptime = 1, time.Since(v.Since).Seconds()
		}
		unsendable := 0
		for _, n := range v.Unsendable {
			unsendable += n
		}
		metric(m.up, prometheus.GaugeValue, up)
		metric(m.state, prometheus.GaugeValue, 1, v.State.String())
		metric(m.uptime, prometheus.GaugeValue, uptime)
		c := v.Counters
		metric(m.messages, prometheus.CounterValue, float64(c.MessagesIn), "in")
		metric(m.messages, prometheus.CounterValue, float64(c.MessagesOut), "out")
		metric(m.updates, prometheus.CounterValue, float64(c.UpdatesIn), "in")
		metric(m.updates, prometheus.CounterValue, float64(c.UpdatesOut), "out")
		metric(m.malformed, prometheus.CounterValue, float64(c.MalformedIn))
		metric(m.prefixes, prometheus.GaugeValue, float64(v.Routes), "wanted")
		metric(m.prefixes, prometheus.GaugeValue, float64(v.Sent), "sent")
		metric(m.prefixes, prometheus.GaugeValue, float64(unsendable), "unsendable")
		metric(m.prefixes, prometheus.GaugeValue, float64(v.Received), "received")
		metric(m.established, prometheus.CounterValue, float64(c.Established))
		metric(m.flaps, prometheus.CounterValue, float64(c.Flaps))
		if v.Fault != nil {
			metric(m.lastError, prometheus.GaugeValue, 1, v.Fault.Cause.String())
		}
		if v.BFD != "" {
			bfd := 0.0
			if v.BFD == "Up" {
				bfd = 1
			}
			metric(m.bfd, prometheus.GaugeValue, bfd)
		}
	}
}
