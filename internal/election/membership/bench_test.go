package membership

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
)

// BenchmarkCluster reports what a member costs while nothing happens, and how
// long it takes until all know of a crash. All members share this process's
// processors, so larger clusters than these say more about the machine.
func BenchmarkCluster(b *testing.B) {
	for _, size := range []int{3, 30} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for b.Loop() {
				c := newCluster(b, size)
				start := time.Now()
				for h := 1; h <= size; h++ {
					c.start(h)
					// All of these share this machine's processors; let one join
					// at a time, or it measures their rush.
					c.members[c.node(h)].sees("itself", time.Minute, with(c.node(h), election.Alive))
				}
				for _, m := range c.members {
					m.sees("all alive", time.Minute, func(list []election.Member) bool {
						return len(list) == size && !slices.ContainsFunc(list, func(m election.Member) bool { return m.State != election.Alive })
					})
				}
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-join")
				const window = 5 * time.Second
				time.Sleep(time.Second) // The news of the joins are out.
				cpu, packets, bytes := c.spent()
				time.Sleep(window)
				cpu2, packets2, bytes2 := c.spent()
				each := float64(size) * window.Seconds()
				b.ReportMetric(100*(cpu2-cpu).Seconds()/each, "%cpu/member")
				b.ReportMetric(float64(packets2-packets)/each, "packets/s/member")
				b.ReportMetric(float64(bytes2-bytes)/each, "B/s/member")
				victim := c.members[c.node(size)]
				start = time.Now()
				victim.crash()
				for _, m := range c.members {
					m.sees("the crash", 10*time.Second, without(victim.node))
				}
				b.ReportMetric(float64(time.Since(start).Milliseconds()), "ms-to-detect")
				c.stop()
				clear(c.members)
			}
		})
	}
}

func (c *cluster) spent() (cpu time.Duration, packets, bytes int64) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		c.t.Fatal(err)
	}
	for _, m := range c.members {
		packets += m.wire.packets.Load()
		bytes += m.wire.bytes.Load()
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), packets, bytes
}
