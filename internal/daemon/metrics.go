package daemon

import (
	"cmp"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry returns a registry with what every process tells of itself: the Go
// runtime, the process, what it was built from, and how old what it knows may be.
func NewRegistry(program string, age func() time.Duration) *prometheus.Registry {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "belfry_build_info",
		Help: "1; the labels say what the program was built from.",
		ConstLabels: prometheus.Labels{
			"program": program, "version": Version(), "commit": cmp.Or(revision(), "unknown"), "go": runtime.Version(),
		},
	})
	build.Set(1)
	r := prometheus.NewRegistry()
	r.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "belfry_config_age_seconds",
			Help: "For how long objects of some kind could not be read from the API server, so that what is known of them may be outdated; 0 while all are watched.",
		}, func() float64 { return age().Seconds() }),
	)
	return r
}
