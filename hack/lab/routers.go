package lab

import (
	"os"
)

// Routers are the routing daemons that run on the router: FRR and BIRD.
type Routers struct {
	run       *run
	network   *Network
	processes *Processes
}

// spreadByPorts has the router's kernel choose among next hops that are equally
// good by ports too.
func (r *Routers) spreadByPorts() error {
	return r.network.inside(Router, func() error {
		for _, key := range []string{"net/ipv4/fib_multipath_hash_policy", "net/ipv6/fib_multipath_hash_policy"} {
			if err := os.WriteFile("/proc/sys/"+key, []byte("1"), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}
