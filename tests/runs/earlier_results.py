"""results.csv as an earlier version wrote it."""

EARLIER = """\
epoch,step,train_loss,top1,top5,val_loss,rate,images_per_second,waited,seconds
1,10,2.30259,0.125,0.5,2.25,0.05,123.457,0.25,8.5
3,30,1.25,0.75,1,1.125,0,121,0,9.25
"""
