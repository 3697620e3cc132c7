module docker-machine

go 1.26

tool github.com/docker/machine/cmd/docker-machine

// The revisions of docker-machine's own Gopkg.lock, except docker/docker and
// docker/go-units, golang.org/x/..., and what x/oauth2 needs in place of
// google.golang.org/cloud. Not tidy: "go mod tidy" stops at the test of
// samalba/dockerclient, which imports a package docker/docker has dropped.
require (
	cloud.google.com/go/compute/metadata v0.3.0 // indirect
	github.com/Azure/azure-sdk-for-go v5.0.0-beta+incompatible // indirect
	github.com/Azure/go-autorest v7.2.1+incompatible // indirect
	github.com/aws/aws-sdk-go v1.4.10 // indirect
	github.com/bugsnag/bugsnag-go v1.0.6-0.20151120182711-02e952891c52 // indirect
	github.com/bugsnag/osext v0.0.0-20130617224835-0dd3f918b21b // indirect
	github.com/bugsnag/panicwrap v0.0.0-20160118154447-aceac81c6e2f // indirect
	github.com/cenkalti/backoff v0.0.0-20141124221459-9831e1e25c87 // indirect
	github.com/codegangsta/cli v1.11.1-0.20151120215642-0302d3914d2a // indirect
	github.com/dgrijalva/jwt-go v3.0.1-0.20160831183534-24c63f56522a+incompatible // indirect
	github.com/digitalocean/godo v0.0.0-20170317202744-d59ed2fe842b // indirect
	github.com/docker/docker v0.7.3-0.20190327010347-be7ac8be2ae0 // indirect
	github.com/docker/go-units v0.4.0 // indirect
	github.com/docker/machine v0.16.2 // indirect
	github.com/exoscale/egoscale v0.9.23 // indirect
	github.com/go-ini/ini v0.0.0-20151124192405-03e0e7d51a13 // indirect
	github.com/google/go-querystring v0.0.0-20140804062624-30f7a39f4a21 // indirect
	github.com/intel-go/cpuid v0.0.0-20181003105527-1a4a6f06a1c6 // indirect
	github.com/jinzhu/copier v0.0.0-20180308034124-7e38e58719c3 // indirect
	github.com/jmespath/go-jmespath v0.0.0-20151117175822-3433f3ea46d9 // indirect
	github.com/mitchellh/mapstructure v0.0.0-20140721150620-740c764bc614 // indirect
	github.com/rackspace/gophercloud v0.0.0-20150408191457-ce0f487f6747 // indirect
	github.com/samalba/dockerclient v0.0.0-20151231000007-f661dd4754aa // indirect
	github.com/skarademir/naturalsort v0.0.0-20150715044055-69a5d87bef62 // indirect
	github.com/tent/http-link-go v0.0.0-20130702225549-ac974c61c2f9 // indirect
	github.com/vmware/govcloudair v0.0.2 // indirect
	github.com/vmware/govmomi v0.6.2 // indirect
	golang.org/x/crypto v0.36.0 // indirect
	golang.org/x/net v0.38.0 // indirect
	golang.org/x/oauth2 v0.28.0 // indirect
	golang.org/x/sys v0.31.0 // indirect
	golang.org/x/term v0.30.0 // indirect
	google.golang.org/api v0.0.0-20180213000552-87a2f5c77b36 // indirect
)
