package speaker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/election"
)

// histogram returns how many values were observed, and their sum.
func histogram(t *testing.T, h prometheus.Histogram) (n uint64, sum float64) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(h)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := families[0].GetMetric()[0].GetHistogram()
	return got.GetSampleCount(), got.GetSampleSum()
}

func TestATakeoverIsMeasuredFromTheFirstDoubt(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.start()
		w.cluster.edit(anybody)
		w.rest()
		w.hub.become("a", election.Suspected)
		time.Sleep(60 * time.Millisecond)
		w.node("a").link.Set(nil)
		w.hub.become("a", election.Gone)
		time.Sleep(core.Pause)
		synctest.Wait()
		n, sum := histogram(t, w.node("b").speaker.metrics.takeovers)
		if each := sum / 2; n != 2 || each < 0.06 || each > 0.07 {
			t.Errorf("%d takeovers of %v s in all, want two of 60 ms", n, sum)
		}
	})
}
