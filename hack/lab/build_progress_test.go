package lab

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestABuildSaysHowFarItIsAndWhatIsLeftAtMost(t *testing.T) {
	for _, c := range []struct {
		done int
		want string
	}{
		{0, "0 of 2000 packages compiled in 1m40s"},
		{500, "500 of 2000 packages compiled in 1m40s, at most 5m0s to go"},
		{1999, "1999 of 2000 packages compiled in 1m40s, at most 0s to go"},
		{2000, "2000 of 2000 packages compiled in 1m40s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &workload{begun: time.Now(), total: 2000, done: c.done}
			time.Sleep(100 * time.Second) // virtual
			if got := w.String(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// The demo needs neither kubelets nor helm, whose builds take half of the time.
func TestARunWithoutContainersBuildsNothingOfContainers(t *testing.T) {
	var names []string
	for _, tc := range toolchainsFor(Options{}) {
		names = append(names, tc.name)
	}
	if got := strings.Join(names, " "); got != "etcd kubernetes" {
		t.Errorf("it builds %s", got)
	}
}
