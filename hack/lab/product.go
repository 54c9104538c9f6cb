package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Namespace is where the product is installed.
const Namespace = "belfry-system"

// Install installs what the product needs in the cluster: the namespace, the
// CRDs, the RBAC and the admission policies of manifests/. The programs themselves run as processes of
// the lab, not as Pods.
func (p *Product) Install(ctx context.Context) error {
	root, err := Root()
	if err != nil {
		return err
	}
	p.run.say("installing CRDs and RBAC from manifests/")
	for _, path := range []string{"base/namespace.yaml", "base/rbac.yaml", "base/admission.yaml", "crds"} {
		path = filepath.Join(root, "manifests", path)
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		flag := "-f"
		if _, err := os.Stat(filepath.Join(path, "kustomization.yaml")); err == nil {
			flag = "-k"
		}
		if _, err := p.cluster.Kubectl(ctx, "apply", flag, path); err != nil {
			return err
		}
	}
	_, err = p.cluster.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
	return err
}

// Ports of the metrics by HTTPS, as in manifests/.
const (
	SecureControllerMetrics = 7883
	SecureSpeakerMetrics    = 7873
)

// A Product is the controller and the speakers, as processes in their hosts.
type Product struct {
	run       *run
	processes *Processes
	cluster   *Cluster
	tree      *tree
}

// confined is a command line that runs a program as its container would: with
// these capabilities, no other, and no way to get one.
func confined(program string, capabilities ...string) []string {
	set := "-all"
	for _, c := range capabilities {
		set += ",+" + c
	}
	return []string{"/usr/bin/setpriv", "--bounding-set=" + set, "--inh-caps=-all", "--no-new-privs", "--", program}
}

// Build builds the controller and the speaker, which is done else when the first of
// them starts.
func (p *Product) Build(ctx context.Context) error {
	for _, program := range []string{"controller", "speaker"} {
		if _, err := p.tree.build(ctx, program); err != nil {
			return err
		}
	}
	return nil
}

// StartController starts a replica of the controller on the control plane, as
// its ServiceAccount. Replicas are numbered from 0 and differ in their identity
// and ports.
func (p *Product) StartController(ctx context.Context, replica int, flags ...string) (*Process, error) {
	program, err := p.tree.build(ctx, "controller")
	if err != nil {
		return nil, err
	}
	kubeconfig, err := p.cluster.KubeconfigFor(ctx, Namespace, "belfry-controller")
	if err != nil {
		return nil, err
	}
	name := "controller/" + strconv.Itoa(replica)
	p.run.say("starting %s", name)
	return p.processes.spawn(name, ControlPlane, append(append(confined(program),
		"--kubeconfig="+kubeconfig,
		"--namespace="+Namespace,
		"--identity="+name,
		fmt.Sprintf("--health-address=127.0.0.1:%d", 7881+10*replica),
		fmt.Sprintf("--metrics-address=127.0.0.1:%d", 7882+10*replica),
		fmt.Sprintf("--secure-metrics-address=127.0.0.1:%d", SecureControllerMetrics+10*replica),
	), flags...)...)
}

// StartSpeaker starts the speaker on a node, as its ServiceAccount.
func (p *Product) StartSpeaker(ctx context.Context, node string, flags ...string) (*Process, error) {
	return p.startSpeaker(ctx, node, flags, func(program string) []string { return confined(program, "net_raw") })
}

// StartPowerlessSpeaker starts the speaker on a node as overlays/bgp does: as an
// ordinary user without any capability.
func (p *Product) StartPowerlessSpeaker(ctx context.Context, node string, flags ...string) (*Process, error) {
	return p.startSpeaker(ctx, node, flags, func(program string) []string {
		as := fmt.Sprintf("--reuid=%[1]d --regid=%[1]d --clear-groups", nobody)
		return slices.Insert(confined(program), 1, strings.Fields(as)...)
	})
}

// nobody is the user of the image.
const nobody = 65532

func (p *Product) startSpeaker(ctx context.Context, node string, flags []string, confine func(program string) []string) (*Process, error) {
	program, err := p.tree.build(ctx, "speaker")
	if err != nil {
		return nil, err
	}
	kubeconfig, err := p.cluster.KubeconfigOn(ctx, node, Namespace, "belfry-speaker")
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(kubeconfig, -1, nobody); err != nil {
			return nil, err
		}
		if err := os.Chmod(kubeconfig, 0o640); err != nil {
			return nil, err
		}
	}
	p.run.say("starting the speaker on %s", node)
	return p.processes.spawn(SpeakerOn(node), node, append(append(confine(program),
		"--kubeconfig="+kubeconfig,
		"--namespace="+Namespace,
		"--node-name="+node,
		fmt.Sprintf("--secure-metrics-address=:%d", SecureSpeakerMetrics),
	), flags...)...)
}

// SpeakerOn is the name of the process that is a node's speaker.
func SpeakerOn(node string) string { return "speaker/" + node }
