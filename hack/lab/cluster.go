package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// controllers are the parts of the controller manager that run. None of them
// judges the health of nodes: a node of the lab is Ready for as long as the
// test leaves it so, and its endpoints change when the test says so.
var controllers = []string{
	"clusterrole-aggregation-controller",
	"deployment-controller",
	"endpointslice-controller",
	"garbage-collector-controller",
	"namespace-controller",
	"replicaset-controller",
	"serviceaccount-controller",
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

// bringUp makes the hosts, the cluster and its nodes.
func (l *Lab) bringUp(ctx context.Context) error {
	// What runs Pods is of this tree; it links while the API server starts.
	var g errgroup.Group
	g.Go(func() error { return l.buildPodRunner(ctx) })
	if err := l.buildNetwork(ctx); err != nil {
		return errors.Join(err, g.Wait())
	}
	if err := l.startControlPlane(ctx); err != nil {
		return errors.Join(err, g.Wait())
	}
	if !l.state.Options.Containers { // kubelets register their nodes themselves
		if err := l.registerNodes(ctx); err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	l.say("starting kube-controller-manager, kube-scheduler, and kube-proxy on each node")
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		args := []string{
			l.state.Programs[name],
			"--kubeconfig=" + l.kubeconfig(name),
			"--authentication-skip-lookup=true",
			"--leader-elect=false",
			"--kube-api-qps=200", "--kube-api-burst=400",
		}
		if name == "kube-controller-manager" {
			args = append(args,
				"--use-service-account-credentials=true",
				"--controllers="+strings.Join(controllers, ","))
			if l.state.Options.Containers {
				args[len(args)-1] = "--controllers=*"
				args = append(args,
					"--root-ca-file="+l.pki("ca.crt"),
					// A dead node is noticed sooner, for the tests' sake.
					"--node-monitor-grace-period=10s", "--node-monitor-period=1s")
			}
		}
		if _, err := l.spawn(name, ControlPlane, args...); err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	for _, node := range l.Nodes() {
		if err := l.startKubeProxy(node); err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.startPodRunner(ctx); err != nil {
		return err
	}
	return l.awaitCluster(ctx)
}

// buildPodRunner builds what runs Pods.
func (l *Lab) buildPodRunner(ctx context.Context) error {
	if l.state.Options.Containers {
		return l.buildMachines(ctx)
	}
	_, err := l.buildOwn(ctx, "lab")
	return err
}

// startPodRunner makes the nodes such that Pods run: each with a kubelet, or
// all with the lab's own.
func (l *Lab) startPodRunner(ctx context.Context) error {
	if l.state.Options.Containers {
		l.say("starting containerd and kubelet on each node")
		return l.startMachines(ctx)
	}
	labCommand, err := l.buildOwn(ctx, "lab")
	if err != nil {
		return err
	}
	_, err = l.spawn("kubelet", ControlPlane, labCommand, "kubelet", "--lab", l.Name)
	return err
}

func (l *Lab) startKubeProxy(node string) error {
	config := filepath.Join(l.Dir, dataDir, "kube-proxy-"+node+".yaml")
	text := fmt.Sprintf(kubeProxyConfig, node, podsV4+","+podsV6, l.kubeconfig("kube-proxy"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	_, err := l.spawn("kube-proxy/"+node, node, l.state.Programs["kube-proxy"], "--config="+config)
	return err
}

// registerNodes does what kubelets do once: it creates the Node objects, Ready.
func (l *Lab) registerNodes(ctx context.Context) error {
	for _, name := range l.Nodes() {
		if err := l.RegisterNode(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// RegisterNode creates the Node object of a node, as its kubelet would: at the
// start, and again after it was deleted.
func (l *Lab) RegisterNode(ctx context.Context, name string) error {
	cs, err := kubernetes.NewForConfig(l.AdminConfig())
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

// awaitCluster returns when the cluster can take a Deployment: what a Pod's
// creation needs is there, and kube-proxy programs every node.
func (l *Lab) awaitCluster(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("a minute has passed"))
	defer cancel()
	cs, err := kubernetes.NewForConfig(l.AdminConfig())
	if err != nil {
		return err
	}
	err = await(ctx, "wait for the service account controller", func() error {
		_, err := cs.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		return l.firstDead(err)
	})
	if err != nil {
		return err
	}
	if l.state.Options.Containers {
		if err := l.awaitNodes(ctx); err != nil {
			return err
		}
	}
	for _, node := range l.Nodes() {
		if err := await(ctx, "wait for kube-proxy on "+node, func() error {
			rules, err := l.Exec(ctx, node, "nft", "list", "tables")
			if err != nil {
				return err
			}
			if !strings.Contains(rules, "ip kube-proxy") || !strings.Contains(rules, "ip6 kube-proxy") {
				return l.firstDead(fmt.Errorf("nft has the tables %q", rules))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// firstDead adds to an error that some process has ended, if one has.
func (l *Lab) firstDead(err error) error {
	for _, p := range l.Processes() {
		if !p.Alive() {
			return fmt.Errorf("%w; %s ended:\n%s", err, p.Name, p.Tail(15))
		}
	}
	return err
}
