package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/belfrylb/belfry/internal/daemon"
	"github.com/belfrylb/belfry/internal/kube/lease"
)

// flags are what the command line says.
type flags struct {
	kubeconfig, namespace, class, identity string
	drainTaint, gossipSecret               string
	ignoreExcludeLB                        bool
	lease                                  lease.Timing
	version                                bool
	daemon.Options
}

// define defines them.
func (f *flags) define() *pflag.FlagSet {
	namespace := os.Getenv("POD_NAMESPACE")
	if namespace == "" {
		namespace = "belfry-system"
	}
	hostname, _ := os.Hostname()
	s := pflag.NewFlagSet("belfry-controller", pflag.ContinueOnError)
	s.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file; empty uses the Pod's ServiceAccount")
	s.StringVar(&f.namespace, "namespace", namespace, "namespace of the Lease and the gossip Secret")
	s.StringVar(&f.class, "lb-class", "", "spec.loadBalancerClass of the Services to serve; empty serves those without a class")
	s.StringVar(&f.identity, "identity", hostname, "name of this replica in the Lease; no two replicas may share one")
	s.DurationVar(&f.lease.Lease, "lease-duration", 15*time.Second, "time after the last renewal of the Lease until another replica may lead")
	s.DurationVar(&f.lease.Renew, "renew-deadline", 10*time.Second, "time after the last renewal of the Lease until the leader stops writing")
	s.DurationVar(&f.lease.Retry, "retry-period", 2*time.Second, "pause between attempts to get or renew the Lease")
	s.BoolVar(&f.ignoreExcludeLB, "ignore-exclude-lb", false, "nodes with the label node.kubernetes.io/exclude-from-external-load-balancers announce, too; must be as on the speakers")
	s.StringVar(&f.drainTaint, "drain-taint", "", "key of a taint that drains a node; must be as on the speakers")
	s.StringVar(&f.gossipSecret, "gossip-secret", "belfry-gossip", "Secret with the key that encrypts gossip; created if it does not exist")
	f.Options = daemon.Options{HealthAddress: ":7881", MetricsAddress: "127.0.0.1:7882"}
	f.AddFlags(s)
	s.BoolVar(&f.version, "version", false, "print the version and exit")
	return s
}

// parse reads the command line; done is set when there is nothing left to do.
func parse(args []string) (f flags, done bool, err error) {
	s := f.define()
	if err := s.Parse(args); err != nil {
		return f, errors.Is(err, pflag.ErrHelp), err
	}
	if f.version {
		fmt.Println("belfry-controller", daemon.Build())
		return f, true, nil
	}
	errs := []error{f.Validate(), f.lease.Validate()}
	if s.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", s.Arg(0)))
	}
	if f.identity == "" {
		errs = append(errs, errors.New("--identity: required, the hostname is unknown"))
	}
	return f, false, errors.Join(errs...)
}
