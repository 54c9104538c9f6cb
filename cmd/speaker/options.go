package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/belfrylb/belfry/internal/daemon"
	"github.com/belfrylb/belfry/internal/election/membership"
	"github.com/belfrylb/belfry/internal/election/watch"
	"github.com/belfrylb/belfry/internal/layer2/link"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/speaker"
)

// options are the flags.
type options struct {
	kubeconfig, node, namespace, class, drainTaint string
	ignoreExclude                                  bool
	secret                                         string
	gossip                                         netip.Addr
	gossipPort, detectionPort                      uint16
	detection                                      lb.Detection
	refresh, proof                                 time.Duration
	rate                                           int
	grace                                          time.Duration
	daemon.Options
}

// given is what the command line says of options that are parsed further, and whether
// the version is asked for.
type given struct {
	gossip, detection string
	version           bool
}

// errDone says that what was asked for is done already.
var errDone = errors.New("done")

// flags defines the flags.
func (o *options) flags(given *given) *pflag.FlagSet {
	flags := pflag.NewFlagSet("belfry-speaker", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; empty uses the Pod's ServiceAccount")
	flags.StringVar(&o.node, "node-name", os.Getenv("NODE_NAME"), "name of this node; the environment variable NODE_NAME sets the default")
	flags.StringVar(&o.namespace, "namespace", cmp.Or(os.Getenv("POD_NAMESPACE"), "belfry-system"), "namespace of the gossip Secret; the environment variable POD_NAMESPACE sets the default")
	flags.StringVar(&o.class, "lb-class", "", "spec.loadBalancerClass of the Services to announce; empty announces those without a class")
	flags.BoolVar(&o.ignoreExclude, "ignore-exclude-lb", false, "announce from nodes with the label node.kubernetes.io/exclude-from-external-load-balancers, too")
	flags.StringVar(&o.drainTaint, "drain-taint", "", "key of a taint that drains a node")
	flags.StringVar(&o.secret, "gossip-secret", "belfry-gossip", "Secret with the key that encrypts gossip")
	flags.StringVar(&given.gossip, "gossip-address", "", "address of this node for gossip; empty uses the first InternalIP of the Node")
	flags.Uint16Var(&o.gossipPort, "gossip-port", membership.DefaultPort, "UDP and TCP port of gossip; must be the same on all nodes")
	flags.StringVar(&given.detection, "detection", lb.DetectFast.String(), "how the failure of this node is detected: fast, by other speakers on its segments in about 0.13 s, or standard, by gossip alone in about 0.4 s, for machines that pause; the Node's annotation belfry.dev/detection overrides it")
	flags.Uint16Var(&o.detectionPort, "detection-port", watch.DefaultPort, "UDP port by which speakers watch each other on their segments; must be the same on all nodes")
	o.Options = daemon.Options{HealthAddress: ":7871", MetricsAddress: "127.0.0.1:7872"}
	o.AddFlags(flags)
	flags.DurationVar(&o.proof, "proof-interval", 5*time.Minute, "interval at which another node asks the segment for each address, besides once after it was acquired; 0 never asks")
	flags.DurationVar(&o.refresh, "refresh-interval", time.Minute, "interval at which each address is announced again by gratuitous ARP or unsolicited NA; 0 announces changes only")
	flags.IntVar(&o.rate, "announce-rate", link.DefaultRate, "maximum of gratuitous ARP and unsolicited NA packets per second on each interface")
	flags.DurationVar(&o.grace, "bgp-grace", speaker.DefaultGrace, "time between GRACEFUL_SHUTDOWN and the withdrawal of all routes when the node drains or the speaker stops")
	flags.BoolVar(&given.version, "version", false, "print the version and exit")
	return flags
}

// parse reads the flags and reports all that is wrong with them.
func parse(args []string) (options, error) {
	var o options
	var given given
	flags := o.flags(&given)
	if err := flags.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return o, errDone
	} else if err != nil {
		return o, err
	}
	if given.version {
		fmt.Println("belfry-speaker", daemon.Build())
		return o, errDone
	}
	var errs []error
	wrong := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: "+format, append([]any{flag}, args...)...))
	}
	if flags.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if o.node == "" {
		wrong("node-name", "required, unless the environment variable NODE_NAME is set")
	}
	if given.gossip != "" {
		var err error
		if o.gossip, err = netip.ParseAddr(given.gossip); err != nil {
			wrong("gossip-address", "%w", err)
		}
		o.gossip = o.gossip.Unmap()
	}
	if o.gossipPort == 0 {
		wrong("gossip-port", "must be 1 to 65535")
	}
	if o.detectionPort == 0 {
		wrong("detection-port", "must be 1 to 65535")
	}
	var known bool
	if o.detection, known = lb.ParseDetection(given.detection); !known || o.detection == lb.DetectAsConfigured {
		wrong("detection", "%q: fast or standard", given.detection)
	}
	if o.proof < 0 {
		wrong("proof-interval", "%v is negative", o.proof)
	}
	if o.refresh < 0 {
		wrong("refresh-interval", "%v is negative", o.refresh)
	}
	if o.grace < 0 {
		wrong("bgp-grace", "%v is negative", o.grace)
	}
	if o.rate <= 0 {
		wrong("announce-rate", "%d is not positive", o.rate)
	}
	return o, errors.Join(append(errs, o.Validate())...)
}
