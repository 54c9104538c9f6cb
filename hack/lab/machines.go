package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Machines are the nodes: their power, what runs Pods on them, and the Pods.
// Without [Options.Containers] the Pods are HTTP servers of the lab's own kubelet.
type Machines struct {
	run       *run
	network   *Network
	processes *Processes
	cluster   *Cluster
	tree      *tree
}

// kubeProxyConfig is as default as the lab's namespaces permit: the conntrack
// limits belong to the machine.
const kubeProxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: %s
clusterCIDR: %s
clientConnection:
  kubeconfig: %s
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
nftables:
  minSyncPeriod: 100ms
  syncPeriod: 30s
metricsBindAddress: 127.0.0.1:10249
healthzBindAddress: 0.0.0.0:10256
`

// build builds what runs Pods.
func (m *Machines) build(ctx context.Context) error {
	if m.run.options.Containers {
		return m.buildKubelets(ctx)
	}
	_, err := m.tree.build(ctx, "lab")
	return err
}

// start makes the nodes such that Pods run: each with a kubelet, or
// all with the lab's own.
func (m *Machines) start(ctx context.Context) error {
	if m.run.options.Containers {
		m.run.say("starting containerd and kubelet on each node")
		return m.startKubelets(ctx)
	}
	labCommand, err := m.tree.build(ctx, "lab")
	if err != nil {
		return err
	}
	_, err = m.processes.spawn("kubelet", ControlPlane, labCommand, "kubelet", "--lab", m.run.name)
	return err
}

// startKubeProxies starts kube-proxy on each node.
func (m *Machines) startKubeProxies() error {
	for _, node := range m.network.Nodes() {
		if err := m.startKubeProxy(node); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machines) startKubeProxy(node string) error {
	config := m.run.data("kube-proxy-" + node + ".yaml")
	text := fmt.Sprintf(kubeProxyConfig, node, podsV4+","+podsV6, m.cluster.kubeconfig("kube-proxy"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	_, err := m.processes.spawn("kube-proxy/"+node, node, m.run.programs["kube-proxy"], "--config="+config)
	return err
}

// register does what kubelets do once, where there are none: it creates the Node
// objects, Ready.
func (m *Machines) register(ctx context.Context) error {
	if m.run.options.Containers {
		return nil
	}
	for _, name := range m.network.Nodes() {
		if err := m.RegisterNode(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// RegisterNode creates the Node object of a node, as its kubelet would: at the
// start, and again after it was deleted.
func (m *Machines) RegisterNode(ctx context.Context, name string) error {
	cs, err := kubernetes.NewForConfig(m.cluster.AdminConfig())
	if err != nil {
		return err
	}
	v4, v6 := podPrefixes(name)
	node, err := cs.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Spec: corev1.NodeSpec{PodCIDR: v4.String(), PodCIDRs: []string{v4.String(), v6.String()}},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create node %s: %w", name, err)
	}
	node.Status = nodeStatus(name)
	if _, err := cs.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("status of node %s: %w", name, err)
	}
	return nil
}

func nodeStatus(name string) corev1.NodeStatus {
	a := addressesOf(name)
	resources := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("16"),
		corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourcePods:   resource.MustParse("110"),
	}
	return corev1.NodeStatus{
		Capacity:    resources,
		Allocatable: resources,
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: a.v4.String()},
			{Type: corev1.NodeInternalIP, Address: a.v6.String()},
			{Type: corev1.NodeHostName, Address: name},
		},
		Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "LabNode", LastTransitionTime: metav1.Now()},
			{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "LabNode", LastTransitionTime: metav1.Now()},
		},
	}
}

// await returns when every node is Ready and its kube-proxy programs it.
func (m *Machines) await(ctx context.Context) error {
	if m.run.options.Containers {
		if err := m.awaitNodes(ctx); err != nil {
			return err
		}
	}
	for _, node := range m.network.Nodes() {
		if err := await(ctx, "wait for kube-proxy on "+node, func() error {
			rules, err := m.network.Exec(ctx, node, "nft", "list", "tables")
			if err != nil {
				return err
			}
			if !strings.Contains(rules, "ip kube-proxy") || !strings.Contains(rules, "ip6 kube-proxy") {
				return m.processes.firstDead(fmt.Errorf("nft has the tables %q", rules))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// PowerOff is the sudden death of a node: its link goes, and with it every
// process it runs.
func (m *Machines) PowerOff(ctx context.Context, node string) error {
	if err := m.network.CutLink(ctx, node); err != nil {
		return err
	}
	var g errgroup.Group
	for _, p := range m.processes.on(node) {
		g.Go(func() error { return p.Kill(ctx) })
	}
	return g.Wait()
}

// PowerOn brings a node back that was powered off, with what it ran.
func (m *Machines) PowerOn(ctx context.Context, node string) error {
	if err := m.network.HealLink(ctx, node); err != nil {
		return err
	}
	var errs []error
	for _, p := range m.processes.on(node) {
		if !p.Alive() {
			errs = append(errs, m.processes.Restart(ctx, p.Name))
		}
	}
	return errors.Join(errs...)
}

// ForgetConnections has every node forget the connections to a backend that is
// gone. Linux remembers an attempt that nobody answered for two minutes, with the
// backend that was chosen for it, and chooses none for whatever comes from the
// same port meanwhile; kube-proxy lets it forget UDP only. So what a dead Pod
// leaves behind is charged to what is done next, unless it is forgotten.
func (m *Machines) ForgetConnections(ctx context.Context, backend netip.Addr) error {
	family := "ipv4"
	if backend.Is6() {
		family = "ipv6"
	}
	var errs []error
	for _, node := range m.network.Nodes() {
		forget := func() error {
			_, err := m.network.Exec(ctx, node, "conntrack", "--delete", "--family", family, "--reply-src", backend.String())
			return err
		}
		err := forget()
		// It lists, and gives up at one that has ended by itself since.
		for err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "such conntrack doesn't exist") {
			err = forget()
		}
		if err != nil && !strings.Contains(err.Error(), " 0 flow entries have been deleted") {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Deploy creates a Deployment of backends and waits until all are Ready. Each
// answers HTTP on port 80 with a line "node=... pod=... client=...".
func (m *Machines) Deploy(ctx context.Context, namespace, name string, replicas int) error {
	if _, err := m.cluster.Kubectl(ctx, "create", "deployment", name, "--namespace="+namespace, "--image=lab/web", "--port=80", "--replicas="+strconv.Itoa(replicas)); err != nil {
		return err
	}
	_, err := m.cluster.Kubectl(ctx, "rollout", "status", "deployment/"+name, "--namespace="+namespace, "--timeout=60s")
	return err
}

// Withdraw makes all Pods of a node unready, as the node lifecycle controller
// would some time after the node's death; the Pods go on serving.
func (m *Machines) Withdraw(ctx context.Context, node string) error {
	return m.annotatePods(ctx, node, AnnotationReady+"=false")
}

// Reinstate undoes Withdraw.
func (m *Machines) Reinstate(ctx context.Context, node string) error {
	return m.annotatePods(ctx, node, AnnotationReady+"-")
}

func (m *Machines) annotatePods(ctx context.Context, node, annotation string) error {
	_, err := m.cluster.Kubectl(ctx, "annotate", "pods", "--all-namespaces", "--field-selector=spec.nodeName="+node, "--overwrite", annotation)
	return err
}
