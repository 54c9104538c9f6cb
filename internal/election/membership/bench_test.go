package membership

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
)

// BenchmarkCluster reports what a member costs while nothing happens, sockets
// included, and how long it takes until all know of a crash. All members share
// this process's processors, and are late when there are many of them: TestScale
// is for those.
func BenchmarkCluster(b *testing.B) {
	for _, size := range []int{3, 30} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for b.Loop() {
				c := newCluster(b, 0)
				start := time.Now()
				for h := 1; h <= size; h++ {
					// Let them join one after the other, or it measures their rush.
					c.size = h
					c.start(h, func(c *Config) { c.Size = size })
					time.Sleep(10 * time.Millisecond)
				}
				for _, m := range c.members {
					m.sees("all alive", 3*time.Minute, func(list []election.Member) bool {
						return len(list) == size && !slices.ContainsFunc(list, func(m election.Member) bool { return m.State != election.Alive })
					})
				}
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-join")
				time.Sleep(time.Second) // The news of the joins are out.
				const window = 2 * time.Second
				false0, before := c.suspicions(), c.spent()
				time.Sleep(window)
				used := c.spent().since(before)
				each := float64(size) * window.Seconds()
				b.ReportMetric(100*used.cpu.Seconds()/each, "%cpu/member")
				b.ReportMetric(float64(used.packets)/each, "packets/s/member")
				b.ReportMetric(float64(used.bytes)/each, "B/s/member")
				b.ReportMetric(c.suspicions()-false0, "false-suspicions")
				victim := c.members[c.node(size)]
				start = time.Now()
				c.mu.Lock()
				c.silent[victim.node] = true
				c.mu.Unlock()
				victim.crash()
				for _, m := range c.members {
					m.sees("the crash", 3*time.Minute, without(victim.node))
				}
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-detect")
				c.stop()
				clear(c.members)
			}
		})
	}
}

// suspicions returns how many suspicions have ended on all members.
func (c *cluster) suspicions() float64 {
	sum := 0.0
	for _, m := range c.members {
		families, err := m.reg.Gather()
		if err != nil {
			c.t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "belfry_gossip_suspicions_total" {
				for _, s := range f.GetMetric() {
					sum += s.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// A spending is what all members have used.
type spending struct {
	cpu            time.Duration
	packets, bytes int64
}

func (s spending) since(o spending) spending {
	return spending{s.cpu - o.cpu, s.packets - o.packets, s.bytes - o.bytes}
}

func (c *cluster) spent() (s spending) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		c.t.Fatal(err)
	}
	for _, m := range c.members {
		s.packets += m.wire.packets.Load()
		s.bytes += m.wire.bytes.Load()
	}
	s.cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	return s
}
