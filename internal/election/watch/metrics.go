package watch

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	sessions *prometheus.GaugeVec
	missed   prometheus.Counter
	dropped  *prometheus.CounterVec
}

const dropForeign, dropUnsigned = "foreign", "unsigned"

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "belfry_detection_sessions",
			Help: "Sessions by which this speaker and others watch each other on their segments, by state.",
		}, []string{"family", "state"}),
		missed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "belfry_detection_missed_total",
			Help: "How often a session heard nothing for its detection time. The other node is then asked on its segment.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "belfry_detection_dropped_total",
			Help: "Packets to the detection port that were dropped: foreign (of no session, or from beyond the segment), unsigned (not signed with our key, or sent again).",
		}, []string{"reason"}),
	}
	if reg != nil {
		reg.MustRegister(m.sessions, m.missed, m.dropped)
	}
	for _, r := range []string{dropForeign, dropUnsigned} {
		m.dropped.WithLabelValues(r)
	}
	return m
}
