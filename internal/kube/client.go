package kube

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// Clients are the API clients of a binary.
type Clients struct {
	// Core is for Kubernetes' own kinds, spoken in protobuf but for ServiceCIDRs.
	Core *CoreClient
	// Own is for the kinds of group belfry.dev, spoken in JSON.
	Own *OwnClient
}

// LoadConfig reads a kubeconfig file, or takes the Pod's own credentials when
// path is empty.
func LoadConfig(path string) (*rest.Config, error) {
	if path == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", path)
}

// A connection to the API server on which nothing has come for pingAfter seconds is
// asked for a sign of life, and given up pingWithin seconds later. By client-go's own
// settings a node that has another address, or whose API server is gone without a word,
// hears nothing new for 45 s. client-go takes both from the environment alone.
const (
	pingAfter  = "5"
	pingWithin = "10"
)

func setPings() error {
	for name, seconds := range map[string]string{"HTTP2_READ_IDLE_TIMEOUT_SECONDS": pingAfter, "HTTP2_PING_TIMEOUT_SECONDS": pingWithin} {
		if _, set := os.LookupEnv(name); set {
			continue
		}
		if err := os.Setenv(name, seconds); err != nil {
			return err
		}
	}
	return nil
}

// NewClients makes the clients of a binary that calls itself userAgent.
//
// They limit no rates: the API server has priority and fairness for that, and a
// client that queues its own requests delays the urgent behind the many. What
// bounds us is how many requests we have in flight.
func NewClients(config *rest.Config, userAgent string) (Clients, error) {
	if err := setPings(); err != nil {
		return Clients{}, err
	}
	config = rest.CopyConfig(config)
	config.UserAgent = userAgent
	config.QPS = -1
	core, err := NewCoreClient(config)
	if err != nil {
		return Clients{}, fmt.Errorf("client for %s: %w", config.Host, err)
	}
	own, err := newRESTClient(config, v1beta1.SchemeGroupVersion, "application/json")
	if err != nil {
		return Clients{}, fmt.Errorf("client for %s: %w", config.Host, err)
	}
	return Clients{Core: core, Own: &OwnClient{own}}, nil
}

// The kinds that we use, and nothing else. client-go's own clients know all kinds
// of all groups, whichever one imports: a third of a binary, and of its memory
// when idle.
var (
	scheme     = runtime.NewScheme()
	codecs     = serializer.NewCodecFactory(scheme)
	parameters = runtime.NewParameterCodec(scheme)
)

func init() {
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme,
		authenticationv1.AddToScheme, authorizationv1.AddToScheme, coordinationv1.AddToScheme, v1beta1.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	scheme.AddKnownTypes(networking, &ServiceCIDR{}, &ServiceCIDRList{})
	metav1.AddToGroupVersion(scheme, networking)
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
}

// newRESTClient makes a client of one group.
func newRESTClient(config *rest.Config, group schema.GroupVersion, content string) (rest.Interface, error) {
	config = rest.CopyConfig(config)
	config.APIPath = "/apis"
	if group.Group == "" {
		config.APIPath = "/api"
	}
	config.GroupVersion, config.NegotiatedSerializer = &group, codecs.WithoutConversion()
	config.ContentType, config.AcceptContentTypes = content, content+",application/json"
	return rest.RESTClientFor(config)
}

// A CoreClient is a client of Kubernetes' own kinds. Its methods return clients
// of one kind, in one namespace or, by an empty name, in all.
type CoreClient struct {
	core, discovery, events, networking rest.Interface
	authentication, authorization       rest.Interface
	coordination                        rest.Interface
}

// NewCoreClient makes a CoreClient.
func NewCoreClient(config *rest.Config) (*CoreClient, error) {
	c := &CoreClient{}
	for client, group := range map[*rest.Interface]schema.GroupVersion{
		&c.core:           corev1.SchemeGroupVersion,
		&c.discovery:      discoveryv1.SchemeGroupVersion,
		&c.events:         eventsv1.SchemeGroupVersion,
		&c.authentication: authenticationv1.SchemeGroupVersion,
		&c.authorization:  authorizationv1.SchemeGroupVersion,
		&c.coordination:   coordinationv1.SchemeGroupVersion,
	} {
		var err error
		if *client, err = newRESTClient(config, group, "application/vnd.kubernetes.protobuf"); err != nil {
			return nil, err
		}
	}
	var err error
	c.networking, err = newRESTClient(config, networking, "application/json")
	return c, err
}

// Services are Services.
func (c *CoreClient) Services(namespace string) Kind[*corev1.Service, *corev1.ServiceList] {
	return kind[corev1.Service, corev1.ServiceList](c.core, "services", namespace)
}

// Namespaces are Namespaces.
func (c *CoreClient) Namespaces() Kind[*corev1.Namespace, *corev1.NamespaceList] {
	return kind[corev1.Namespace, corev1.NamespaceList](c.core, "namespaces", "")
}

// Nodes are Nodes.
func (c *CoreClient) Nodes() Kind[*corev1.Node, *corev1.NodeList] {
	return kind[corev1.Node, corev1.NodeList](c.core, "nodes", "")
}

// Secrets are Secrets.
func (c *CoreClient) Secrets(namespace string) Kind[*corev1.Secret, *corev1.SecretList] {
	return kind[corev1.Secret, corev1.SecretList](c.core, "secrets", namespace)
}

// EndpointSlices are EndpointSlices.
func (c *CoreClient) EndpointSlices(namespace string) Kind[*discoveryv1.EndpointSlice, *discoveryv1.EndpointSliceList] {
	return kind[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](c.discovery, "endpointslices", namespace)
}

// Events are Events, of group events.k8s.io.
func (c *CoreClient) Events(namespace string) Kind[*eventsv1.Event, *eventsv1.EventList] {
	return kind[eventsv1.Event, eventsv1.EventList](c.events, "events", namespace)
}

// ServiceCIDRs are the networks of cluster IPs.
func (c *CoreClient) ServiceCIDRs() Kind[*ServiceCIDR, *ServiceCIDRList] {
	return kind[ServiceCIDR, ServiceCIDRList](c.networking, "servicecidrs", "")
}

// Leases are Leases.
func (c *CoreClient) Leases(namespace string) Kind[*coordinationv1.Lease, *coordinationv1.LeaseList] {
	return kind[coordinationv1.Lease, coordinationv1.LeaseList](c.coordination, "leases", namespace)
}

// TokenReviews ask whose a token is; none is ever kept, so there are no lists.
func (c *CoreClient) TokenReviews() Kind[*authenticationv1.TokenReview, *metav1.Status] {
	return kind[authenticationv1.TokenReview, metav1.Status](c.authentication, "tokenreviews", "")
}

// SubjectAccessReviews ask what a user may do; likewise.
func (c *CoreClient) SubjectAccessReviews() Kind[*authorizationv1.SubjectAccessReview, *metav1.Status] {
	return kind[authorizationv1.SubjectAccessReview, metav1.Status](c.authorization, "subjectaccessreviews", "")
}

// An OwnClient is a client of our own kinds, none of which is in a namespace.
type OwnClient struct{ client rest.Interface }

// IPAddressPools are IPAddressPools.
func (c *OwnClient) IPAddressPools() Kind[*v1beta1.IPAddressPool, *v1beta1.IPAddressPoolList] {
	return kind[v1beta1.IPAddressPool, v1beta1.IPAddressPoolList](c.client, "ipaddresspools", "")
}

// L2Advertisements are L2Advertisements.
func (c *OwnClient) L2Advertisements() Kind[*v1beta1.L2Advertisement, *v1beta1.L2AdvertisementList] {
	return kind[v1beta1.L2Advertisement, v1beta1.L2AdvertisementList](c.client, "l2advertisements", "")
}

// BGPAdvertisements are BGPAdvertisements.
func (c *OwnClient) BGPAdvertisements() Kind[*v1beta1.BGPAdvertisement, *v1beta1.BGPAdvertisementList] {
	return kind[v1beta1.BGPAdvertisement, v1beta1.BGPAdvertisementList](c.client, "bgpadvertisements", "")
}

// BGPPeers are BGPPeers.
func (c *OwnClient) BGPPeers() Kind[*v1beta1.BGPPeer, *v1beta1.BGPPeerList] {
	return kind[v1beta1.BGPPeer, v1beta1.BGPPeerList](c.client, "bgppeers", "")
}

// BFDProfiles are BFDProfiles.
func (c *OwnClient) BFDProfiles() Kind[*v1beta1.BFDProfile, *v1beta1.BFDProfileList] {
	return kind[v1beta1.BFDProfile, v1beta1.BFDProfileList](c.client, "bfdprofiles", "")
}

// Communities are Communities.
func (c *OwnClient) Communities() Kind[*v1beta1.Community, *v1beta1.CommunityList] {
	return kind[v1beta1.Community, v1beta1.CommunityList](c.client, "communities", "")
}

// SpeakerStatuses are SpeakerStatuses.
func (c *OwnClient) SpeakerStatuses() Kind[*v1beta1.SpeakerStatus, *v1beta1.SpeakerStatusList] {
	return kind[v1beta1.SpeakerStatus, v1beta1.SpeakerStatusList](c.client, "speakerstatuses", "")
}

// LogTo makes client-go log to a logger.
func LogTo(log *slog.Logger) {
	klog.SetLogger(logr.FromSlogHandler(log.Handler()))
}
